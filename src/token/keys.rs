//! What is derived from a token: HKDF-SHA256 (RFC 5869) over its secret texts.
//!
//! None of the original's derivations is used: they end in 31-bit codes or MD5. The numbers of a token (interval,
//! length) have no part in it, so no reading of them can split a mesh.

use std::{fmt, str::FromStr};

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// The identity of a mesh: derived from its *first* token and carried on in later ones, so rotation renumbers
/// nothing. Not a secret among members; strangers never see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MeshId([u8; 32]);

/// A text that is no mesh id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a mesh id: expected 64 hexadecimal digits")]
pub struct MeshIdError;

impl MeshId {
    /// Takes the 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({}..)", hex(&self.0[..4]))
    }
}

impl FromStr for MeshId {
    type Err = MeshIdError;

    fn from_str(text: &str) -> Result<Self, MeshIdError> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(MeshIdError);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| MeshIdError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| MeshIdError)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MeshId {
    type Error = MeshIdError;

    fn try_from(text: String) -> Result<Self, MeshIdError> {
        text.parse()
    }
}

impl From<MeshId> for String {
    fn from(id: MeshId) -> Self {
        id.to_string()
    }
}

/// Every key that comes from one token. Wiped from memory when dropped; has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKeys {
    /// Which mesh this is.
    pub mesh_id: MeshId,
    /// Proves knowledge of the token, see [`super::admission`].
    pub admission: [u8; 32],
    /// Pre-shared key of the data plane's handshake (`Noise_NNpsk0`).
    pub data_psk: [u8; 32],
    /// Tells two tokens of one mesh apart, for members only (the handshake's "psk id"). Gives nothing away of a
    /// token of ours; of a guessable one it would confirm a guess.
    pub token_id: [u8; 8],
    rendezvous: [u8; 32],
    mdns: [u8; 32],
}

impl NetworkKeys {
    /// `secrets` in the order of the document. All keys but the mesh id also depend on the mesh id: two meshes that
    /// share a token's texts by accident still are two.
    pub(super) fn derive(secrets: &[u8], mesh_id: MeshId) -> Self {
        let source = Hkdf::<Sha256>::new(Some(mesh_id.as_bytes()), secrets);
        Self {
            mesh_id,
            admission: expand(&source, "c3os token v1 admission"),
            data_psk: expand(&source, "c3os token v1 data psk"),
            token_id: expand(&source, "c3os token v1 token id"),
            rendezvous: expand(&source, "c3os token v1 rendezvous"),
            mdns: expand(&source, "c3os token v1 mdns"),
        }
    }

    /// What members of this mesh call themselves in the public DHT on one day.
    ///
    /// `utc_day` counts days since 1970-01-01 UTC; clocks differ, so look for yesterday's, today's and tomorrow's.
    pub fn rendezvous(&self, utc_day: u64) -> [u8; 32] {
        numbered(&self.rendezvous, utc_day)
    }

    /// What members of this mesh are called in one question of multicast DNS: 32 hexadecimal digits, one DNS label.
    /// It says nothing about the token, and the names of two questions cannot be linked.
    ///
    /// `salt` is the question's random number, which travels beside the name: no clock is needed.
    pub fn mdns_name(&self, salt: u64) -> String {
        hex(&numbered(&self.mdns, salt)[..16])
    }
}

impl Drop for NetworkKeys {
    fn drop(&mut self) {
        self.admission.zeroize();
        self.data_psk.zeroize();
        self.token_id.zeroize();
        self.rendezvous.zeroize();
        self.mdns.zeroize();
    }
}

/// The id of the mesh whose first token has these `secrets`.
pub(super) fn mesh_id(secrets: &[u8]) -> MeshId {
    MeshId(expand(&Hkdf::<Sha256>::new(None, secrets), "c3os token v1 mesh id"))
}

/// The check inside tokens of ours: hexadecimal digits over all they say.
pub(super) fn check(content: &[u8]) -> String {
    hex(&expand::<8>(&Hkdf::<Sha256>::new(None, content), "c3os token v1 check"))
}

/// `length of text (4, big endian), text` for each: no two lists give the same bytes.
pub(super) fn canonical<'a>(texts: impl IntoIterator<Item = &'a str>) -> Zeroizing<Vec<u8>> {
    // Reserved so that growing leaves no copy of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// `count` characters of `[a-zA-Z0-9]`, each equally likely, from 32 secret bytes.
pub(super) fn key_text(random: &[u8], count: usize) -> Zeroizing<String> {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut stream = Zeroizing::new([0; 256]);
    Hkdf::<Sha256>::new(None, random)
        .expand(b"c3os token v1 key text", stream.as_mut())
        .expect("256 bytes are within HKDF's limit");
    let mut text = Zeroizing::new(String::with_capacity(count));
    // 248 is the largest multiple of 62 in a byte: what lies above would favour the first letters.
    for byte in stream.iter().filter(|byte| **byte < 248).take(count) {
        text.push(char::from(ALPHABET[usize::from(byte % 62)]));
    }
    assert_eq!(text.len(), count, "256 bytes leave {count} after dropping one in 32");
    text
}

/// What a whole token is made of, from 32 secret bytes.
pub(super) fn stretched(seed: &[u8; 32]) -> Zeroizing<[u8; 160]> {
    Zeroizing::new(expand(&Hkdf::<Sha256>::new(None, seed), "c3os token v1 successor"))
}

fn expand<const N: usize>(source: &Hkdf<Sha256>, info: &str) -> [u8; N] {
    let mut out = [0; N];
    source.expand(info.as_bytes(), &mut out).expect("a key is within HKDF's limit");
    out
}

/// One of many values of a key, that nobody without the key can link to another.
fn numbered(key: &[u8; 32], number: u64) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(None, key)
        .expand_multi_info(&[b"c3os day v1", &number.to_be_bytes()], &mut out)
        .expect("a key is within HKDF's limit");
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
