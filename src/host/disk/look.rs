//! What is on a disk already, and whether it may be overwritten.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    super::{HostError, Root, process},
    SECTOR,
};

/// A disk, or a file that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The device's path.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// What is in the way of writing to it.
    pub guards: Vec<Guard>,
    /// The labels of the file systems on it.
    pub labels: Vec<Label>,
}

/// The label of a file system: a machine that boots finds its parts by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its text.
    pub text: String,
    /// The disk or partition with the file system.
    pub device: PathBuf,
}

/// A reason not to write to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// It cannot hold a system as we write it. Nothing overrides this.
    Unfit(String),
    /// It, or one of its partitions, is in use here: mounted, swapped to, part of an array. Nothing overrides this.
    InUse(String),
    /// It holds something: a partition table, a file system. `--wipe` overrides this.
    Holds(String),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(why) => write!(f, "cannot be used ({why})"),
            Self::InUse(what) => write!(f, "is in use ({what})"),
            Self::Holds(what) => write!(f, "is not empty ({what})"),
        }
    }
}

/// All disks of this machine, in the order of their names.
pub fn disks() -> Vec<Disk> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
        .iter()
        .filter(|name| is_disk(name))
        .filter_map(|name| look(&Path::new("/dev").join(name)).ok())
        .collect()
}

/// Memory, loops, CD drives and the like are no disks; neither is a reader without a card.
fn is_disk(name: &str) -> bool {
    let size = fs::read_to_string(Path::new("/sys/block").join(name).join("size")).unwrap_or_default();
    let kind = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];
    !kind.iter().any(|kind| name.starts_with(kind)) && size.trim() != "0"
}

/// Looks at one disk.
///
/// # Errors
/// [`HostError::File`] if it is not there or is neither a disk nor a file; [`HostError::Command`].
pub fn look(path: &Path) -> Result<Disk, HostError> {
    let failed = |source| HostError::File { operation: "look at", path: path.to_owned(), source };
    // Links such as those in /dev/disk/by-id lead to the name that the kernel knows.
    let path = &fs::canonicalize(path).map_err(failed)?;
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    if kind.is_file() {
        let size = fs::metadata(path).map_err(failed)?.len();
        let guards = holds(path)?.into_iter().collect();
        return Ok(Disk { path: path.clone(), size, guards, labels: labels(path)? });
    }
    if !kind.is_block_device() {
        return Err(failed(io::Error::other("it is no disk")));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sys = Path::new("/sys/class/block").join(&name);
    if sys.join("partition").exists() {
        return Err(failed(io::Error::other("it is a partition; name the whole disk")));
    }
    let Seen { size, parts, mut guards } = seen(&Root::system(), &name)?;
    if guards.is_empty() && is_held(path).map_err(failed)? {
        let by = "something has it for itself alone: a mount that is not seen from here, a volume, another program";
        guards.push(Guard::InUse(by.to_owned()));
    }
    guards.extend(holds(path)?);
    // What cannot be read has no label at boot either.
    let labels = parts.iter().flat_map(|part| labels(&Path::new("/dev").join(part)).unwrap_or_default());
    let labels = labels.collect();
    Ok(Disk { path: path.clone(), size, guards, labels })
}

/// What the kernel's files say of a disk.
struct Seen {
    size: u64,
    /// Itself and its partitions.
    parts: Vec<String>,
    guards: Vec<Guard>,
}

fn seen(root: &Root, name: &str) -> Result<Seen, HostError> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).map_err(|source| HostError::File { operation: "read", path, source })
    };
    let block = root.path("/sys/class/block");
    let sys = block.join(name);
    let size = read(sys.join("size"))?;
    let mut parts = vec![name.to_owned()];
    parts.extend(fs::read_dir(&sys).into_iter().flatten().flatten().filter_map(|entry| {
        let part = entry.file_name().to_string_lossy().into_owned();
        entry.path().join("partition").exists().then_some(part)
    }));
    let mounts = read(root.path("/proc/self/mountinfo"))?;
    // Not there: a kernel without swap.
    let swaps = fs::read_to_string(root.path("/proc/swaps")).unwrap_or_default();
    let mut guards = Vec::new();
    if read(sys.join("ro"))?.trim() != "0" {
        guards.push(Guard::Unfit("it is read-only".to_owned()));
    }
    guards.extend(unfit(read(sys.join("queue/logical_block_size"))?.trim()));
    for part in &parts {
        let sys = block.join(part);
        let number = fs::read_to_string(sys.join("dev")).unwrap_or_default();
        guards.extend(
            mounted_at(&mounts, number.trim()).map(|at| Guard::InUse(format!("{part} is mounted at {at}"))),
        );
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{part}"))) {
            guards.push(Guard::InUse(format!("{part} is swap space")));
        }
        let holders = fs::read_dir(sys.join("holders")).into_iter().flatten().flatten().next();
        guards.extend(
            holders.map(|by| Guard::InUse(format!("{part} is part of {}", by.file_name().to_string_lossy()))),
        );
    }
    // In these sectors, whatever the disk's own are.
    Ok(Seen { size: size.trim().parse::<u64>().unwrap_or(0) * SECTOR, parts, guards })
}

/// The layout, sgdisk's and GRUB's numbers are of sectors of 512 bytes; with others every partition would be elsewhere.
fn unfit(sector: &str) -> Option<Guard> {
    let other = (sector != SECTOR.to_string()).then_some(sector)?;
    Some(Guard::Unfit(format!(
        "its sectors have {other} bytes, and only {SECTOR} are supported; some disks can be changed: nvme format, \
         sg_format"
    )))
}

/// Whether a device, or one of its partitions, is held exclusively, as every mount does: also btrfs, which
/// `/proc/self/mountinfo` shows under another number, and mounts in other namespaces, which it does not show.
fn is_held(path: &Path) -> io::Result<bool> {
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(true),
        Err(error) => Err(error),
    }
}

/// Where the block device with this `major:minor` is mounted first, by `/proc/self/mountinfo` (proc(5)).
fn mounted_at<'a>(mounts: &'a str, number: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&number)).then(|| fields.get(4).copied())?
    })
}

/// What signatures say that a disk holds.
fn holds(path: &Path) -> Result<Option<Guard>, HostError> {
    let found = signatures(path, "TYPE,LABEL")?;
    Ok((!found.is_empty()).then(|| Guard::Holds(found.join(", "))))
}

fn labels(path: &Path) -> Result<Vec<Label>, HostError> {
    let mut texts = signatures(path, "LABEL")?;
    texts.retain(|text| !text.is_empty());
    Ok(texts.into_iter().map(|text| Label { text, device: path.to_owned() }).collect())
}

/// These columns of wipefs(8), a line for every signature.
fn signatures(path: &Path, columns: &str) -> Result<Vec<String>, HostError> {
    let listed =
        process::run("wipefs", &["--noheadings", "--output", columns, path.to_string_lossy().as_ref()])?;
    Ok(listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_disk_is_found_by_its_number() {
        let mounts = "22 1 0:21 / /proc rw - proc proc rw\n\
                      30 1 254:5 / /run/initramfs/elemental-state rw,relatime - ext4 /dev/vda5 rw\n";
        assert_eq!(mounted_at(mounts, "254:5"), Some("/run/initramfs/elemental-state"));
        assert_eq!(mounted_at(mounts, "254:6"), None);
        assert_eq!(mounted_at("broken", ""), None);
    }

    /// A directory that stands for a machine with the disk sda and its partition sda1.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let sda = [
            ("/sys/class/block/sda/size", "4096\n"),
            ("/sys/class/block/sda/dev", "8:0\n"),
            ("/sys/class/block/sda/ro", "0\n"),
            ("/sys/class/block/sda/queue/logical_block_size", "512\n"),
            ("/sys/class/block/sda/sda1/partition", "1\n"),
            ("/sys/class/block/sda1/dev", "8:1\n"),
        ];
        for (path, text) in sda.iter().chain(files) {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (directory, root)
    }

    const MOUNTS: &str = "/proc/self/mountinfo";

    #[test]
    fn a_disk_is_in_use_by_what_its_partitions_are() {
        let (_directory, root) = machine(&[(MOUNTS, "22 1 0:21 / /proc rw - proc proc rw\n")]);
        let free = seen(&root, "sda").unwrap();
        assert_eq!((free.size, free.guards), (2 << 20, Vec::new()));
        assert_eq!(free.parts, ["sda", "sda1"]);
        let mounted = (MOUNTS, "30 1 8:1 / /mnt rw - ext4 /dev/sda1 rw\n");
        let swapped = ("/proc/swaps", "Filename Type Size\n/dev/sda1 partition 1024\n");
        let (_directory, root) = machine(&[mounted, swapped, ("/sys/class/block/sda/holders/dm-0/dev", "")]);
        let guards = seen(&root, "sda").unwrap().guards;
        let uses = ["sda is part of dm-0", "sda1 is mounted at /mnt", "sda1 is swap space"];
        assert_eq!(guards, uses.map(|by| Guard::InUse(by.to_owned())));
    }

    #[test]
    fn a_disk_with_large_sectors_is_refused() {
        let large = ("/sys/class/block/sda/queue/logical_block_size", "4096\n");
        let (_directory, root) = machine(&[(MOUNTS, ""), large]);
        let guards = seen(&root, "sda").unwrap().guards;
        assert!(matches!(guards.as_slice(), [Guard::Unfit(why)] if why.contains("4096")), "{guards:?}");
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_seen_and_refused() {
        let (_directory, root) = machine(&[(MOUNTS, ""), ("/sys/class/block/sda/ro", "1\n")]);
        let guards = seen(&root, "sda").unwrap().guards;
        assert_eq!(guards, [Guard::Unfit("it is read-only".to_owned())]);
    }

    #[test]
    fn mounts_that_cannot_be_read_are_not_taken_for_none() {
        let (_directory, root) = machine(&[]);
        let error = seen(&root, "sda").err().unwrap().to_string();
        assert!(error.contains(MOUNTS), "{error}");
    }

    #[test]
    fn a_file_is_empty_until_something_is_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert_eq!(look(&path).unwrap().guards, []);
        // The signature of an ext4 file system: 53 ef at 0x438.
        let mut bytes = vec![0; 1 << 20];
        bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x400 + 0x18] = 0;
        bytes[0x44c] = 1;
        fs::write(&path, bytes).unwrap();
        let guards = look(&path).unwrap().guards;
        assert!(matches!(guards.as_slice(), [Guard::Holds(what)] if what.contains("ext")), "{guards:?}");
        assert!(look(directory.path()).is_err());
        assert!(look(&directory.path().join("nothing")).is_err());
    }
}
