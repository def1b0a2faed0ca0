//! What is on a disk already, and whether it may be overwritten.

use std::{
    fmt, fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use super::super::{HostError, process};

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
    /// It, or one of its partitions, is in use here: mounted, swapped to, part of an array. Nothing overrides this.
    InUse(String),
    /// It holds something: a partition table, a file system. `--wipe` overrides this.
    Holds(String),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(what) => write!(f, "is in use ({what})"),
            Self::Holds(what) => write!(f, "is not empty ({what})"),
        }
    }
}

/// All disks of this machine that can be written to, in the order of their names.
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

/// Memory, loops, CD drives and the like are no disks; neither is what cannot be written.
fn is_disk(name: &str) -> bool {
    let read =
        |file: &str| fs::read_to_string(Path::new("/sys/block").join(name).join(file)).unwrap_or_default();
    let kind = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];
    !kind.iter().any(|kind| name.starts_with(kind)) && read("ro").trim() == "0" && read("size").trim() != "0"
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
        return Err(failed(std::io::Error::other("it is no disk")));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sys = Path::new("/sys/class/block").join(&name);
    if sys.join("partition").exists() {
        return Err(failed(std::io::Error::other("it is a partition; name the whole disk")));
    }
    let size = fs::read_to_string(sys.join("size")).map_err(failed)?;
    let mut parts = vec![name.clone()];
    parts.extend(fs::read_dir(&sys).map_err(failed)?.flatten().filter_map(|entry| {
        let part = entry.file_name().to_string_lossy().into_owned();
        entry.path().join("partition").exists().then_some(part)
    }));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut guards = Vec::new();
    for part in &parts {
        let sys = Path::new("/sys/class/block").join(part);
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
    guards.extend(holds(path)?);
    // What cannot be read has no label at boot either.
    let labels = parts.iter().flat_map(|part| labels(&Path::new("/dev").join(part)).unwrap_or_default());
    let labels = labels.collect();
    // /sys counts sectors of 512 bytes, whatever the disk's own are.
    Ok(Disk { path: path.clone(), size: size.trim().parse::<u64>().unwrap_or(0) * 512, guards, labels })
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

    #[test]
    fn a_file_system_is_found_by_its_label() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let mut bytes = vec![0; 1 << 20];
        bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x44c] = 1;
        bytes[0x478..0x481].copy_from_slice(b"COS_STATE");
        fs::write(&path, bytes).unwrap();
        let label = Label { text: "COS_STATE".to_owned(), device: path.clone() };
        assert_eq!(look(&path).unwrap().labels, [label]);
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
