//! Files, and devices that the kernel makes of them.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Guard, Label, look, write::wipe};

/// A file as a block device, as long as this lives.
struct Loop(PathBuf);

impl Loop {
    /// None where that may not or cannot be done.
    fn of(file: &Path, options: &[&str]) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output();
        match made {
            Ok(made) if made.status.success() => {
                Some(Self(String::from_utf8(made.stdout).unwrap().trim().into()))
            }
            _ => {
                eprintln!("skipped: loop devices take root, and a kernel with them");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let done = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "{} is left", self.0.display());
    }
}

/// What a mount of btrfs, or one in another namespace, is to the kernel.
fn held(device: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(device).unwrap()
}

/// Writes what an ext4 file system with the label COS_STATE is known by, from `at` on.
fn ext4(bytes: &mut [u8], at: usize) {
    let superblock = &mut bytes[at + 1024..];
    superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
    superblock[0x4c] = 1;
    superblock[0x78..0x81].copy_from_slice(b"COS_STATE");
}

/// A disk with a partition table of one entry.
fn partitioned(directory: &Path) -> PathBuf {
    let path = directory.join("disk");
    let mut bytes = vec![0; 1 << 20];
    // Linux, sectors 1 to 1024.
    bytes[0x1c2] = 0x83;
    bytes[0x1c6] = 1;
    bytes[0x1cb] = 4;
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_file_loses_its_partition_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = partitioned(directory.path());
    assert!(matches!(look(&path).unwrap().guards.as_slice(), [Guard::Holds(_)]));
    wipe(&path).unwrap();
    assert_eq!(look(&path).unwrap().guards, []);
}

#[test]
fn a_file_system_is_found_by_its_label() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let mut bytes = vec![0; 1 << 20];
    ext4(&mut bytes, 0);
    fs::write(&path, bytes).unwrap();
    let label = Label { text: "COS_STATE".to_owned(), device: path.clone() };
    assert_eq!(look(&path).unwrap().labels, [label]);
}

#[test]
fn a_device_that_something_holds_is_in_use_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = partitioned(directory.path());
    let Some(device) = Loop::of(&file, &[]) else { return };
    let holder = held(&device.0);
    let guards = look(&device.0).unwrap().guards;
    assert!(matches!(guards.as_slice(), [Guard::InUse(_), Guard::Holds(_)]), "{guards:?}");
    assert!(wipe(&device.0).is_err());
    // A new device: of the old one, programs that other tests are just starting may have our open file for a moment.
    drop((holder, device));
    let Some(device) = Loop::of(&file, &[]) else { return };
    wipe(&device.0).unwrap();
    assert_eq!(look(&device.0).unwrap().guards, []);
}

#[test]
fn a_device_with_large_sectors_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let Some(device) = Loop::of(&file, &["--sector-size", "4096"]) else { return };
    let disk = look(&device.0).unwrap();
    assert_eq!(disk.size, 1 << 20);
    assert!(matches!(disk.guards.as_slice(), [Guard::Unfit(_)]), "{:?}", disk.guards);
}

#[test]
fn a_disk_has_the_labels_of_its_partitions_and_is_in_use_when_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = partitioned(directory.path());
    let mut bytes = fs::read(&file).unwrap();
    // The partition begins with the second sector.
    ext4(&mut bytes, 512);
    fs::write(&file, bytes).unwrap();
    let Some(device) = Loop::of(&file, &["--partscan"]) else { return };
    let part = PathBuf::from(format!("{}p1", device.0.display()));
    if !part.exists() {
        // A kernel that reads no partition tables can be told.
        let _ = Command::new("addpart").arg(&device.0).args(["1", "1", "1024"]).status();
    }
    if !part.exists() {
        eprintln!("skipped: nobody makes {} here", part.display());
        return;
    }
    let _holder = held(&part);
    let disk = look(&device.0).unwrap();
    assert!(matches!(disk.guards.as_slice(), [Guard::InUse(_), Guard::Holds(_)]), "{:?}", disk.guards);
    assert_eq!(disk.labels, [Label { text: "COS_STATE".to_owned(), device: part }]);
}
