//! `/usr/local/.c3os/identity`: the key that this machine keeps for life, and the fingerprint of the machine it was
//! made on.
//!
//! ```text
//!                      ┌─ fits the machine, or nothing to compare ─> Kept
//! identity ─ readable ─┤
//!    │                 └─ of another machine ─> all state is set aside ─> Cloned
//!    ├─ none ─────────────────────────────────────────────────────────> Made
//!    ├─ cut or altered ─> set aside ───────────────────────────────────> Damaged
//!    └─ readable by others ─> refused
//! ```

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{HostError, Root, fingerprint::fingerprint, state};
use crate::identity::{Fingerprint, Identity, Likeness, NodeId};

const NAME: &str = "identity";
pub(super) const FINGERPRINT: &str = "fingerprint";
/// What belongs to the member that an identity is, and not to the machine. `identity` comes last: as long as it is
/// there, a move that a power cut ended is taken up again.
const OF_THE_MEMBER: [&str; 9] =
    ["applied", "certificate", "deployed", "lease", "name", "ledger", "mark", "pending", NAME];

/// This machine's identity, and how it came by it.
#[derive(Debug)]
pub struct IdentityFound {
    /// The identity.
    pub identity: Identity,
    /// How it came by it.
    pub origin: Origin,
}

/// How a machine came by its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It had it before.
    Kept,
    /// It had none.
    Made,
    /// It is a copy of another machine; that one's state lies in this directory.
    Cloned(PathBuf),
    /// Its old one could not be read any more, and lies here; to the others this machine is a new member.
    Damaged(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: NodeId,
    seed: String,
}

/// Whether this machine has an identity file, good or bad.
pub fn has_identity(root: &Root) -> bool {
    fs::symlink_metadata(root.state(NAME)).is_ok()
}

/// Reads the identity, or makes one from `fresh`, 32 bytes of the operating system's random source.
///
/// # Errors
/// [`HostError::Exposed`] if others can read the key; [`HostError::File`] if the disk does not do its part.
pub fn load_identity(root: &Root, fresh: &Zeroizing<[u8; 32]>) -> Result<IdentityFound, HostError> {
    root.prepare()?;
    let path = root.state(NAME);
    if let Ok(metadata) = fs::symlink_metadata(&path) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(HostError::Exposed { path, mode });
        }
    }
    let here = fingerprint(root);
    let found = match read(root) {
        Ok(Some(identity)) => {
            let then: Option<Fingerprint> = match state::read(root, FINGERPRINT) {
                Ok(then) => then,
                // Without it clones are not seen; the identity is good all the same.
                Err(HostError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            match then.map_or(Likeness::Unknown, |then| here.likeness(&then)) {
                Likeness::Same => {
                    state::write(root, FINGERPRINT, &here)?;
                    return Ok(IdentityFound { identity, origin: Origin::Kept });
                }
                // What was known stays: next time there may be something to compare again.
                Likeness::Unknown => return Ok(IdentityFound { identity, origin: Origin::Kept }),
                Likeness::Different => Origin::Cloned(leave_behind(root)?),
            }
        }
        Ok(None) => Origin::Made,
        Err(HostError::Damaged { set_aside, .. }) => Origin::Damaged(set_aside),
        Err(error) => return Err(error),
    };
    state::write(root, FINGERPRINT, &here)?;
    let identity = Identity::from_seed(fresh);
    let mut stored = Stored { id: identity.id(), seed: state::hex(&**fresh) };
    let written = state::write(root, NAME, &stored);
    stored.seed.zeroize();
    written?;
    Ok(IdentityFound { identity, origin: found })
}

fn read(root: &Root) -> Result<Option<Identity>, HostError> {
    let Some(mut stored) = state::read::<Stored>(root, NAME)? else {
        return Ok(None);
    };
    let seed = unhex(&stored.seed);
    stored.seed.zeroize();
    match seed.map(|seed| Identity::from_seed(&seed)) {
        Some(identity) if identity.id() == stored.id => Ok(Some(identity)),
        Some(_) | None => {
            let path = root.state(NAME);
            let set_aside = root.set_aside(&path, "damaged")?;
            Err(HostError::Damaged { path, why: "its key is not the one of its id", set_aside })
        }
    }
}

/// Moves everything that makes this machine somebody else's twin into a directory.
fn leave_behind(root: &Root) -> Result<PathBuf, HostError> {
    let directory = root.state("cloned");
    if directory.exists() {
        root.set_aside(&directory, "earlier")?;
    }
    root.make_dir(&directory, 0o700)?;
    for name in OF_THE_MEMBER {
        let (from, to) = (root.state(name), directory.join(name));
        match root.step().and_then(|()| fs::rename(&from, &to)) {
            Ok(()) => {}
            Err(error) if super::root::is_absent(&error) => {}
            Err(source) => return Err(HostError::File { operation: "set aside", path: from, source }),
        }
    }
    Ok(directory)
}

fn unhex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        (directory, root)
    }

    fn load(root: &Root, seed: u8) -> IdentityFound {
        load_identity(root, &Zeroizing::new([seed; 32])).unwrap()
    }

    fn product(root: &Root, uuid: &str) {
        let path = root.path("/sys/class/dmi/id/product_uuid");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, uuid).unwrap();
    }

    #[test]
    fn a_machine_keeps_its_identity() {
        let (_directory, root) = root();
        let first = load(&root, 1);
        assert_eq!(first.origin, Origin::Made);
        let second = load(&root, 2);
        assert_eq!(second.origin, Origin::Kept);
        assert_eq!(second.identity.id(), first.identity.id());
        let mode = fs::metadata(root.state(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_the_fix_named() {
        let (_directory, root) = root();
        load(&root, 1);
        fs::set_permissions(root.state(NAME), fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_identity(&root, &Zeroizing::new([2; 32])).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn an_identity_cut_or_altered_anywhere_is_never_used_and_never_thrown_away() {
        let (_directory, root) = root();
        let old = load(&root, 1).identity.id();
        let whole = fs::read(root.state(NAME)).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            for bytes in [altered, whole[..at].to_vec()] {
                fs::write(root.state(NAME), &bytes).unwrap();
                let found = load(&root, 2);
                assert_ne!(found.identity.id(), old, "byte {at}");
                let Origin::Damaged(set_aside) = found.origin else {
                    panic!("byte {at}: {:?}", found.origin)
                };
                assert_eq!(fs::read(&set_aside).unwrap(), bytes);
                fs::remove_file(set_aside).unwrap();
            }
        }
    }

    #[test]
    fn a_copied_disk_becomes_a_member_of_its_own_and_the_state_is_kept_aside() {
        let (_directory, root) = root();
        product(&root, "4c4c4544-0042-3510-8058-b7c04f4e3732");
        let original = load(&root, 1).identity.id();
        state::write_lease(&root, &crate::host::tests::lease()).unwrap();

        product(&root, "9d1f3c40-1111-4242-8058-b7c04f4e3732");
        let copy = load(&root, 2);
        assert_ne!(copy.identity.id(), original);
        assert_eq!(copy.origin, Origin::Cloned(root.state("cloned")));
        assert_eq!(state::read_lease(&root).unwrap(), None, "the address is the original's");
        assert!(root.state("cloned/lease").exists());
        assert_eq!(load(&root, 3).origin, Origin::Kept);
    }

    #[test]
    fn a_power_cut_while_a_copy_becomes_itself_never_leaves_the_originals_identity_in_use() {
        for cut in 0..40 {
            let (_directory, root) = root();
            product(&root, "4c4c4544-0042-3510-8058-b7c04f4e3732");
            let original = load(&root, 1).identity.id();
            state::write_lease(&root, &crate::host::tests::lease()).unwrap();
            product(&root, "9d1f3c40-1111-4242-8058-b7c04f4e3732");
            root.faults.fail_after(cut);
            let first = load_identity(&root, &Zeroizing::new([2; 32]));
            root.faults.heal();
            let done = first.is_ok();
            let found = load(&root, 3);
            assert_ne!(found.identity.id(), original, "cut {cut}");
            assert_eq!(state::read_lease(&root).unwrap(), None, "cut {cut}");
            if done {
                return;
            }
        }
        panic!("it never got through");
    }
}
