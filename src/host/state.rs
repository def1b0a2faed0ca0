//! Small facts in `/usr/local/.c3os`, each a file of its own: what this machine was before the last power cut.
//!
//! A file is one line `c3os-state 1 <SHA-256 of the rest>` and JSON, so that a cut or altered file is known for one.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{HostError, Root};
use crate::{address::Lease, identity::NodeId, k3s::Applied, token::KeptTokens};

const MAGIC: &str = "c3os-state 1 ";

/// Reads `applied`: what was made of this machine.
///
/// # Errors
/// [`HostError::Damaged`] once; the file was moved aside. [`HostError::File`] if it cannot be read.
pub fn read_applied(root: &Root) -> Result<Option<Applied>, HostError> {
    read(root, "applied")
}

/// Reads `lease`.
///
/// # Errors
/// As [`read_applied`].
pub fn read_lease(root: &Root) -> Result<Option<Lease>, HostError> {
    read(root, "lease")
}

/// Keeps the lease; whether it differed from what was kept.
///
/// # Errors
/// [`HostError::File`].
pub fn write_lease(root: &Root, lease: &Lease) -> Result<bool, HostError> {
    write(root, "lease", lease)
}

/// Reads `certificate`: the proof of the cluster that this machine belongs to, as bytes.
///
/// # Errors
/// As [`read_applied`].
pub fn read_certificate(root: &Root) -> Result<Option<Vec<u8>>, HostError> {
    let text: Option<String> = read(root, "certificate")?;
    Ok(text.and_then(|text| BASE64_STANDARD.decode(text).ok()))
}

/// Keeps the certificate, for good; whether it differed from what was kept.
///
/// # Errors
/// [`HostError::File`].
pub fn write_certificate(root: &Root, certificate: &[u8]) -> Result<bool, HostError> {
    write(root, "certificate", &BASE64_STANDARD.encode(certificate))
}

/// Reads `peers`: where peers were reached last, best first, as multiaddresses.
///
/// # Errors
/// As [`read_applied`].
pub fn read_peers(root: &Root) -> Result<Vec<String>, HostError> {
    read(root, "peers").map(Option::unwrap_or_default)
}

/// Keeps where peers were reached; whether it differed from what was kept.
///
/// # Errors
/// [`HostError::File`].
pub fn write_peers(root: &Root, peers: &[String]) -> Result<bool, HostError> {
    write(root, "peers", &peers)
}

/// Reads `tokens`: what this machine kept of the network token's replacements.
///
/// # Errors
/// As [`read_applied`].
pub fn read_tokens(root: &Root) -> Result<Option<KeptTokens>, HostError> {
    read(root, "tokens")
}

/// Reads `tokens` if it is there, whole and ours to read, and touches nothing.
pub fn peek_tokens(root: &Root) -> Option<KeptTokens> {
    peek(root, "tokens")
}

/// Keeps the network tokens; whether they differed from what was kept.
///
/// # Errors
/// [`HostError::File`].
pub fn write_tokens(root: &Root, tokens: &KeptTokens) -> Result<bool, HostError> {
    write(root, "tokens", tokens)
}

/// The highest number that an identity gave to an entry of its own: a ledger that knows of fewer has lost some.
#[derive(Serialize, Deserialize)]
struct Mark {
    id: NodeId,
    mark: u64,
}

/// Reads `mark`, the highest number of an own entry, kept beside the identity; 0 if it is another identity's.
///
/// # Errors
/// As [`read_applied`].
pub fn read_mark(root: &Root, id: NodeId) -> Result<u64, HostError> {
    Ok(read::<Mark>(root, "mark")?.filter(|kept| kept.id == id).map_or(0, |kept| kept.mark))
}

/// Keeps the highest number of an own entry that is on disk.
///
/// # Errors
/// [`HostError::File`].
pub fn write_mark(root: &Root, id: NodeId, mark: u64) -> Result<bool, HostError> {
    write(root, "mark", &Mark { id, mark })
}

/// Reads a fact. A damaged file is moved aside, so that the next reading finds none.
pub(super) fn read<T: DeserializeOwned>(root: &Root, name: &str) -> Result<Option<T>, HostError> {
    let path = root.state(name);
    let Some(bytes) = root.read(&path)? else {
        return Ok(None);
    };
    match decode(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(why) => {
            let set_aside = root.set_aside(&path, "damaged")?;
            Err(HostError::Damaged { path, why, set_aside })
        }
    }
}

/// Reads a fact, if it is there and whole, and touches nothing.
pub(super) fn peek<T: DeserializeOwned>(root: &Root, name: &str) -> Option<T> {
    decode(&root.read(&root.state(name)).ok()??).ok()
}

/// Keeps a fact for root's eyes; whether it differed from what was kept.
pub(super) fn write<T: Serialize>(root: &Root, name: &str, value: &T) -> Result<bool, HostError> {
    let path = root.state(name);
    root.prepare()?;
    root.write_if_other(&path, &encode(value), 0o600)
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut body = serde_json::to_string_pretty(value).expect("facts have string keys and no failing parts");
    body.push('\n');
    format!("{MAGIC}{}\n{body}", hex(&Sha256::digest(&body))).into_bytes()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    if text.is_empty() {
        return Err("it is empty");
    }
    let (head, body) = text.split_once('\n').ok_or("it was cut")?;
    let sum = head.strip_prefix(MAGIC).ok_or("its first line is not that of this version")?;
    if sum != hex(&Sha256::digest(body)) {
        return Err("it was cut or altered");
    }
    serde_json::from_str(body).map_err(|_| "it was written by another version")
}

/// Lower case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
