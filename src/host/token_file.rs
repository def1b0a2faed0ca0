//! The network token in the configuration files, after it was replaced.
//!
//! The machine itself goes by `tokens` in its state; the files are for whoever reads them, installs from them, or asks
//! `c3os get-network-token`. Only the token's own characters change: comments, order and mode stay.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{HostError, Mode, Root, discover};
use crate::token::Keyring;

/// Puts the token in use into the files that still have a replaced one; gives those that were changed.
///
/// # Errors
/// [`HostError::File`] names the first file that could not be changed; others may have been.
pub fn renew_token(
    root: &Root,
    mode: Mode,
    directories: &[PathBuf],
    ring: &Keyring,
) -> Result<Vec<PathBuf>, HostError> {
    let loaded = discover::load_config(root, mode, directories);
    let Some(written) = &loaded.parsed.config.network_token else { return Ok(Vec::new()) };
    let old = written.reveal().trim();
    if !ring.has_replaced(old) {
        return Ok(Vec::new());
    }
    let new = ring.current().encode();
    let mut files: Vec<PathBuf> = discover::files(root, mode, directories);
    files.extend(loaded.parsed.token_file.as_ref().map(|path| root.path(path)));
    let mut changed = Vec::new();
    for path in files {
        // A link stays one.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let Some(bytes) = root.read(&path)? else { continue };
        let Ok(text) = String::from_utf8(bytes).map(Zeroizing::new) else { continue };
        if text.contains(old) {
            let renewed = Zeroizing::new(text.replace(old, &new));
            replace(root, &path, renewed.as_bytes())?;
            changed.push(path);
        }
    }
    if changed.is_empty() {
        let origin = loaded.parsed.origins.get("c3os.network_token");
        let path = origin.map_or_else(PathBuf::new, |origin| PathBuf::from(&origin.file));
        let source = io::Error::other("it does not stand there in one piece; write it there by hand");
        return Err(HostError::File { operation: "put the new network token into", path, source });
    }
    Ok(changed)
}

/// Replaces the bytes of a file that belongs to somebody; mode and owner stay.
fn replace(root: &Root, path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    let failed = |source| HostError::File { operation: "write", path: path.to_owned(), source };
    let before = fs::metadata(path).map_err(failed)?;
    root.write(path, bytes, before.permissions().mode() & 0o7777)?;
    let after = fs::metadata(path).map_err(failed)?;
    if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid())).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::NetworkToken;

    fn rotated() -> (Keyring, String, String) {
        let old = NetworkToken::generate(&[1; 160], Vec::new()).unwrap();
        let mut ring = Keyring::new(old.clone());
        ring.hold(1, old.successor(&[2; 32]), 20_000);
        ring.take(20_000);
        let new = ring.current().encode().to_string();
        (ring, old.encode().to_string(), new)
    }

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for (file, text) in files {
            let path = root.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        (directory, root)
    }

    #[test]
    fn only_the_token_changes() {
        let (ring, old, new) = rotated();
        let text = |token: &str| {
            format!(
                "#cloud-config\n# kept\nusers: []\nc3os:\n  role: worker # kept too\n  network_token: \"{token}\"\n"
            )
        };
        let (_directory, root) =
            machine(&[("/oem/config.yaml", &text(&old)), ("/oem/other.yaml", "stages: {}\n")]);
        let changed = renew_token(&root, Mode::Installed, &[], &ring).unwrap();
        assert_eq!(changed.len(), 1);
        let path = root.path("/oem/config.yaml");
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&new));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(renew_token(&root, Mode::Installed, &[], &ring).unwrap().is_empty(), "once is enough");
    }

    #[test]
    fn a_file_of_its_own_is_renewed_too() {
        let (ring, old, new) = rotated();
        let (_directory, root) = machine(&[
            ("/oem/config.yaml", "c3os:\n  network_token_file: /oem/token\n"),
            ("/oem/token", &format!("{old}\n")),
        ]);
        renew_token(&root, Mode::Installed, &[], &ring).unwrap();
        assert_eq!(fs::read_to_string(root.path("/oem/token")).unwrap(), format!("{new}\n"));
    }

    #[test]
    fn a_power_cut_leaves_the_old_file_or_the_new_one() {
        let (ring, old, new) = rotated();
        let text = |token: &str| format!("c3os:\n  network_token: {token}\n");
        for cut in 0..4 {
            let (_directory, root) = machine(&[("/oem/config.yaml", &text(&old))]);
            root.faults.fail_after(cut);
            let _ = renew_token(&root, Mode::Installed, &[], &ring);
            root.faults.heal();
            let now = fs::read_to_string(root.path("/oem/config.yaml")).unwrap();
            assert!(now == text(&old) || now == text(&new), "cut {cut}");
            renew_token(&root, Mode::Installed, &[], &ring).unwrap();
            assert_eq!(fs::read_to_string(root.path("/oem/config.yaml")).unwrap(), text(&new));
        }
    }

    #[test]
    fn a_wrapped_token_is_named_and_not_touched_and_never_shown() {
        let (ring, old, _) = rotated();
        let (one, two) = old.split_at(100);
        let text = format!("c3os:\n  network_token: |\n    {one}\n    {two}\n");
        let (_directory, root) = machine(&[("/oem/config.yaml", &text)]);
        let error = renew_token(&root, Mode::Installed, &[], &ring).unwrap_err().to_string();
        assert!(
            error.contains("config.yaml") && error.contains("by hand") && !error.contains(one),
            "{error}"
        );
        assert_eq!(fs::read_to_string(root.path("/oem/config.yaml")).unwrap(), text);
    }
}
