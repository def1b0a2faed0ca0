//! Laying out a disk as elemental does: its labels, its partitions, its places.
//!
//! ```text
//! bios        1 MiB      the boot loader for BIOS, no file system
//! COS_GRUB    64 MiB     vfat: the one for UEFI, and grub.cfg for both
//! COS_OEM     64 MiB     /oem: configuration
//! COS_RECOVERY           /boot/{recovery.img,vmlinuz,initrd}
//! COS_STATE              /.snapshots/{1/snapshot.img,active}, /boot/{vmlinuz,initrd}
//! COS_PERSISTENT  rest   /usr/local
//! ```
//!
//! Everything is written through the disk itself at the partition's offset, never through a mount: a disk and a file that
//! stands for one are written alike, and nothing is left mounted when it fails.

mod layout;
mod look;
#[cfg(test)]
mod tests;
mod write;

/// What everything here counts in.
const SECTOR: u64 = 512;

pub use layout::{Layout, Partition, layout};
pub use look::{Disk, Guard, Label, disks, look};
pub use write::{Content, install};
