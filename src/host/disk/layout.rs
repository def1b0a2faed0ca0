//! Which partition begins where. Pure.

const MIB: u64 = 1 << 20;
/// A disk that is big enough gets elemental's own sizes, so that upgrades have room for images of any kind.
const ROOMY: u64 = 32 * 1024 * MIB;
/// What has to be left for `/usr/local`, where k3s lives.
const LEAST_PERSISTENT: u64 = 512 * MIB;

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its name in the partition table.
    pub name: &'static str,
    /// Label of its file system; none: it holds none.
    pub label: Option<&'static str>,
    /// gdisk's code of its type.
    pub kind: &'static str,
    /// First byte; a whole number of MiB.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// All partitions of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In their order on the disk.
    pub partitions: Vec<Partition>,
}

impl Layout {
    /// The partition with this name in the table.
    pub fn named(&self, name: &str) -> &Partition {
        let found = self.partitions.iter().find(|partition| partition.name == name);
        found.expect("every layout has all six partitions")
    }
}

/// Divides a disk of `disk` bytes for a system whose image has `image` bytes.
///
/// # Errors
/// How many bytes the disk would have to have.
pub fn layout(disk: u64, image: u64) -> Result<Layout, u64> {
    // Beside an image: kernel and initramfs.
    let beside = 96 * MIB;
    let (recovery, state) = if disk >= ROOMY {
        (4096 * MIB, 8192 * MIB)
    } else {
        // The one that runs, the one before, and one that an upgrade writes.
        (whole(image + beside), whole(3 * image + beside))
    };
    let sizes = [
        ("bios", None, "ef02", MIB),
        ("efi", Some("COS_GRUB"), "ef00", 64 * MIB),
        ("oem", Some("COS_OEM"), "8300", 64 * MIB),
        ("recovery", Some("COS_RECOVERY"), "8300", recovery),
        ("state", Some("COS_STATE"), "8300", state),
    ];
    let mut partitions = Vec::new();
    let mut offset = MIB;
    let mut number = 0;
    let mut add = |name, label, kind, size| {
        number += 1;
        partitions.push(Partition { number, name, label, kind, offset, size });
        offset += size;
        offset
    };
    let mut end = MIB;
    for (name, label, kind, size) in sizes {
        end = add(name, label, kind, size);
    }
    // The second partition table lies in the last MiB.
    let least = end + LEAST_PERSISTENT + MIB;
    if disk < least {
        return Err(least);
    }
    add("persistent", Some("COS_PERSISTENT"), "8300", (disk - MIB) / MIB * MIB - end);
    Ok(Layout { partitions })
}

fn whole(bytes: u64) -> u64 {
    bytes.div_ceil(MIB) * MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_and_stay_inside_of_the_disk() {
        for disk in [2048 * MIB, 4096 * MIB + 512, ROOMY, 2_000_398_934_016] {
            let layout = layout(disk, 140 * MIB + 77).unwrap();
            let names: Vec<_> = layout.partitions.iter().map(|partition| partition.name).collect();
            assert_eq!(names, ["bios", "efi", "oem", "recovery", "state", "persistent"]);
            for pair in layout.partitions.windows(2) {
                assert_eq!(pair[0].offset + pair[0].size, pair[1].offset);
            }
            assert!(layout.partitions.iter().all(|part| part.offset % MIB == 0 && part.size % MIB == 0));
            let last = layout.named("persistent");
            assert!(last.size >= LEAST_PERSISTENT && last.offset + last.size + MIB <= disk);
            assert!(layout.named("state").size >= 3 * 140 * MIB);
        }
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_what_it_would_need() {
        let needed = layout(600 * MIB, 140 * MIB).unwrap_err();
        assert!(layout(needed, 140 * MIB).is_ok());
        assert_eq!(layout(needed - 1, 140 * MIB), Err(needed));
    }
}
