//! Replacing a file so that a power cut at any moment leaves the old one or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Writes a neighbour of `path`, syncs it, renames it over `path`, and syncs the directory. `step` comes before each
/// change of the disk.
///
/// The neighbour's name begins with a dot and ends in `.new`, which none of the programs that read whole directories
/// (k3s, systemd, the stage runner) picks up. A leftover of an earlier attempt is overwritten.
pub(super) fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    step: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let new = neighbour(path);
    step()?;
    // Something else than a file may lie there: a link that leads elsewhere must not be followed.
    if fs::symlink_metadata(&new).is_ok() {
        fs::remove_file(&new)?;
    }
    let result = fill(&new, bytes, mode).and_then(|()| step()).and_then(|()| fs::rename(&new, path));
    if let Err(error) = result {
        // On a full disk the room is needed.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    step()?;
    sync_directory_of(path)
}

/// Makes a symbolic link, over whatever was at `path`.
pub(super) fn link(path: &Path, target: &Path, step: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let new = neighbour(path);
    step()?;
    if fs::symlink_metadata(&new).is_ok() {
        fs::remove_file(&new)?;
    }
    symlink(target, &new)?;
    step()?;
    fs::rename(&new, path)?;
    sync_directory_of(path)
}

/// After a rename, a creation or a removal: makes the directory's new entries last.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn fill(new: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // Nobody else may read it before its mode is set.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn neighbour(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}
