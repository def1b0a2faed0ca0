//! Writing a system to a disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::{HostError, process},
    Layout, Partition, SECTOR,
};

/// Slow disks and emulated machines write at a few MiB/s.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is written.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// The system: a squashfs.
    pub image: &'a Path,
    /// Its `/boot`: `vmlinuz`, `initrd`.
    pub boot: &'a Path,
    /// What a machine starts with: `boot.img`, `core.img`, `BOOTX64.EFI`, `grub.cfg`.
    pub loaders: &'a Path,
    /// Configuration for `/oem`.
    pub config: Option<&'a [u8]>,
    /// 16 random bytes; every id on the disk is made from them.
    pub seed: [u8; 16],
    /// Where small files are put together.
    pub scratch: &'a Path,
}

/// Writes the whole disk. Its boot code comes last: an installation that was cut short does not boot, and says so by
/// not booting. `say` hears of every step.
///
/// # Errors
/// [`HostError`]; the disk is then half written.
pub fn install(
    disk: &Path,
    layout: &Layout,
    content: &Content<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<(), HostError> {
    say("partitions");
    partition(disk, layout, content)?;
    say("boot loader");
    efi(disk, layout.named("efi"), content)?;
    let config = content.scratch.join("userdata.yaml");
    let mut oem = Vec::new();
    if let Some(text) = content.config {
        private(&config, text)?;
        oem.push(format!("write {} userdata.yaml", config.display()));
    }
    say("configuration");
    let written = ext4(disk, layout.named("oem"), content, &oem);
    if content.config.is_some() {
        let removed = fs::remove_file(&config);
        removed.map_err(|source| HostError::File { operation: "remove", path: config, source })?;
    }
    written?;
    ext4(disk, layout.named("persistent"), content, &[])?;
    let boot = content.boot.display();
    let kernel = ["mkdir boot", "cd boot"]
        .map(str::to_owned)
        .into_iter()
        .chain(["vmlinuz", "initrd"].map(|name| format!("write {boot}/{name} {name}")));
    let image = content.image.display();
    say("system for recovery");
    let recovery: Vec<_> = kernel.clone().chain([format!("write {image} recovery.img")]).collect();
    ext4(disk, layout.named("recovery"), content, &recovery)?;
    say("system");
    let state: Vec<_> = kernel
        .chain(["cd /", "mkdir .snapshots", "mkdir .snapshots/1", "cd .snapshots/1"].map(str::to_owned))
        .chain([format!("write {image} snapshot.img")])
        .chain(["cd /.snapshots", "symlink active 1/snapshot.img"].map(str::to_owned))
        .collect();
    ext4(disk, layout.named("state"), content, &state)?;
    say("boot code");
    bios(disk, layout.named("bios"), content.loaders)?;
    File::open(disk).and_then(|file| file.sync_all()).map_err(|source| HostError::File {
        operation: "sync",
        path: disk.to_owned(),
        source,
    })
}

/// Writes the partition table over whatever there was.
fn partition(disk: &Path, layout: &Layout, content: &Content<'_>) -> Result<(), HostError> {
    wipe(disk)?;
    let mut words = vec!["--disk-guid".to_owned(), uuid(content, "disk")];
    for part in &layout.partitions {
        let number = part.number;
        let last = (part.offset + part.size) / SECTOR - 1;
        words.extend(["--new".to_owned(), format!("{number}:{}:{last}", part.offset / SECTOR)]);
        words.extend(["--typecode".to_owned(), format!("{number}:{}", part.kind)]);
        words.extend(["--change-name".to_owned(), format!("{number}:{}", part.name)]);
        words.extend(["--partition-guid".to_owned(), format!("{number}:{}", uuid(content, part.name))]);
    }
    words.push(disk.to_string_lossy().into_owned());
    run("sgdisk", &words)
}

/// Takes the signatures away. Of a device that is in use by now, nothing: wipefs(8) asks the kernel for it alone, unless
/// it is forced, as it has to be for the partition table of a file.
pub(super) fn wipe(disk: &Path) -> Result<(), HostError> {
    let force = disk.is_file().then_some("--force");
    let path = disk.to_string_lossy();
    let words: Vec<&str> = ["--all"].into_iter().chain(force).chain([path.as_ref()]).collect();
    process::run_long("wipefs", &words, PATIENCE).map(drop)
}

fn efi(disk: &Path, part: &Partition, content: &Content<'_>) -> Result<(), HostError> {
    let label = part.label.unwrap_or_default();
    let path = disk.to_string_lossy().into_owned();
    let id = uuid(content, label).replace('-', "");
    // One sector a cluster: the size of the whole disk, not the partition's, would decide it otherwise.
    let words = ["-I", "--invariant", "-F", "32", "-s", "1", "-n", label, "-i", &id[..8], "--offset"]
        .map(str::to_owned);
    let place = [(part.offset / SECTOR).to_string(), path.clone(), (part.size / 1024).to_string()];
    run("mkfs.vfat", &[words.as_slice(), place.as_slice()].concat())?;
    let at = format!("{path}@@{}", part.offset);
    let file = |name: &str| content.loaders.join(name).to_string_lossy().into_owned();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    run("mmd", &words(&["-i", &at, "::EFI", "::EFI/BOOT"]))?;
    run("mcopy", &words(&["-m", "-i", &at, &file("BOOTX64.EFI"), "::EFI/BOOT/BOOTX64.EFI"]))?;
    run("mcopy", &words(&["-m", "-i", &at, &file("grub.cfg"), "::grub.cfg"]))
}

/// Makes a file system and carries out `commands` of debugfs(8) in it.
fn ext4(disk: &Path, part: &Partition, content: &Content<'_>, commands: &[String]) -> Result<(), HostError> {
    let label = part.label.unwrap_or_default();
    let path = disk.to_string_lossy().into_owned();
    let options = format!("offset={},hash_seed={},lazy_itable_init=1", part.offset, uuid(content, "hash"));
    let words =
        ["-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-U", &uuid(content, label), "-E", &options];
    let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
    run("mke2fs", &[words, vec![path.clone(), format!("{}k", part.size / 1024)]].concat())?;
    if commands.is_empty() {
        return Ok(());
    }
    let script = content.scratch.join("debugfs");
    let mut text = commands.join("\n");
    text.push('\n');
    private(&script, text.as_bytes())?;
    let at = format!("{path}?offset={}", part.offset);
    let words = ["-w".to_owned(), "-f".to_owned(), script.to_string_lossy().into_owned(), at];
    let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = process::run_long("debugfs", &borrowed, PATIENCE)?;
    // It ends well whatever happens; what went wrong is what it says beyond repeating its commands.
    let complaint = said.lines().find(|line| {
        let usual = ["debugfs", "Allocated inode:"];
        !line.trim().is_empty() && !usual.iter().any(|start| line.starts_with(start))
    });
    match complaint {
        None => Ok(()),
        Some(line) => {
            Err(HostError::Command { command: format!("debugfs, writing {label}"), failure: line.to_owned() })
        }
    }
}

/// Writes GRUB's first sector and what it loads, as `grub-bios-setup` does: the sector loads one sector of the
/// partition, which knows where the others are (grub-core/boot/i386/pc/{boot,diskboot}.S).
fn bios(disk: &Path, part: &Partition, loaders: &Path) -> Result<(), HostError> {
    let read = |name: &str| {
        let path = loaders.join(name);
        fs::read(&path).map_err(|source| HostError::File { operation: "read", path, source })
    };
    let (boot, core) =
        boot_code(read("boot.img")?, read("core.img")?, part.offset / SECTOR).ok_or_else(|| {
            let source = io::Error::other("boot.img or core.img is no boot code of GRUB's");
            HostError::File { operation: "read", path: loaders.to_owned(), source }
        })?;
    let failed = |source| HostError::File { operation: "write", path: disk.to_owned(), source };
    if core.len() as u64 > part.size {
        return Err(failed(io::Error::other("core.img is larger than the partition for it")));
    }
    let file = OpenOptions::new().write(true).open(disk).map_err(failed)?;
    file.write_all_at(&core, part.offset).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    file.write_all_at(&boot, 0).map_err(failed)
}

/// The first sector's code (without the partition table behind it) and the partition's, made for each other.
fn boot_code(mut boot: Vec<u8>, mut core: Vec<u8>, sector: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    core.resize(core.len().next_multiple_of(512), 0);
    let rest = u16::try_from(core.len() / 512).ok()?.checked_sub(1)?;
    // Where the next sector is; which disk (as the BIOS says); no check of that.
    boot.get_mut(0x5c..0x64)?.copy_from_slice(&sector.to_le_bytes());
    *boot.get_mut(0x64)? = 0xff;
    boot.get_mut(0x66..0x68)?.copy_from_slice(&[0x90, 0x90]);
    // The last entry of the block list: first sector, how many, segment.
    core.get_mut(0x1f4..0x1fc)?.copy_from_slice(&(sector + 1).to_le_bytes());
    core.get_mut(0x1fc..0x1fe)?.copy_from_slice(&rest.to_le_bytes());
    core.get_mut(0x1fe..0x200)?.copy_from_slice(&0x820u16.to_le_bytes());
    boot.truncate(440);
    (boot.len() == 440).then_some((boot, core))
}

/// A file that nobody else reads.
fn private(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    let failed = |source| HostError::File { operation: "write", path: PathBuf::from(path), source };
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

fn run(program: &str, words: &[String]) -> Result<(), HostError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    process::run_long(program, &words, PATIENCE).map(drop)
}

/// The id of one thing on the disk.
fn uuid(content: &Content<'_>, thing: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(content.seed);
    hash.update(thing);
    let mut bytes: [u8; 32] = hash.finalize().into();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = super::super::state::hex(&bytes[..16]);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_finds_its_partition_and_leaves_the_table_alone() {
        let (boot, core) = boot_code(vec![1; 512], vec![2; 700], 2048).unwrap();
        assert_eq!(boot.len(), 440);
        assert_eq!(boot[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(core.len(), 1024);
        assert_eq!(core[0x1f4..0x200], [0x01, 0x08, 0, 0, 0, 0, 0, 0, 1, 0, 0x20, 0x08]);
        assert_eq!(boot_code(vec![1; 20], vec![2; 700], 2048), None);
        assert_eq!(boot_code(vec![1; 512], Vec::new(), 2048), None);
    }
}
