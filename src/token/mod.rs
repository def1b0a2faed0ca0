//! The network token: one text, shared by all machines, that makes them one mesh.
//!
//! ```text
//! what was pasted --text--> YAML --document--> fields --keys (HKDF)--> mesh id, admission key, data PSK, names
//! ```
//!
//! All three generations of the original's tokens are taken, as seed material only. A token is the right to ask for
//! [`admission`], and carries no authority over what others write. It is never logged, shown in an error, or printed
//! by `Debug`.

pub mod admission;
mod document;
mod error;
mod gate;
mod keyring;
mod keys;
mod text;

use std::fmt;

use zeroize::Zeroizing;

use document::{Extension, Fields, Otp};
pub use error::TokenError;
pub use gate::{Gate, Right, Verdict};
pub use keyring::{KeptTokens, Keyring};
pub use keys::{MeshId, MeshIdError, NetworkKeys};

/// The interval of the original's `c3os generate-token`: its codes never rotate. It has no effect here.
const INTERVAL: i64 = i64::MAX;

/// Characters of a key, and the one-time-password length that goes with it, as the original's newest generator.
const KEY_LENGTH: usize = 43;

/// The original's limit on its gossip messages: 20 MiB. It has no effect here.
const MAX_MESSAGE_SIZE: i64 = 20 << 20;

/// A network token that was understood.
#[derive(Clone)]
pub struct NetworkToken {
    fields: Fields,
    extension: Option<Extension>,
}

impl NetworkToken {
    /// Reads a token of any generation, as somebody pasted it.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with the text, and never shows it.
    pub fn parse(written: &str) -> Result<Self, TokenError> {
        let (yaml, encoded_length) = text::decode(written)?;
        let (fields, extension) = document::parse(&yaml, encoded_length)?;
        let Some((extension, check)) = extension else { return Ok(Self { fields, extension: None }) };
        let token = Self { fields, extension: Some(extension) };
        if token.check() == check { Ok(token) } else { Err(TokenError::Damaged) }
    }

    /// Makes the first token of a new mesh from 160 bytes of the operating system's random source: 32 for each key.
    ///
    /// `peers` are multiaddresses to dial first.
    ///
    /// # Errors
    /// [`TokenError`] if a peer does not look like a multiaddress, or there are too many.
    pub fn generate(random: &[u8; 160], peers: Vec<String>) -> Result<Self, TokenError> {
        document::check_peers(&peers)?;
        let fields = fields_from(random);
        let mesh_id = keys::mesh_id(&keys::canonical(fields.secrets()));
        Ok(Self { fields, extension: Some(Extension { mesh_id, peers }) })
    }

    /// Makes the token that replaces this one from 32 secret bytes: new keys, the same mesh and peers. Every token of
    /// the mesh gives the same one.
    #[must_use]
    pub fn successor(&self, seed: &[u8; 32]) -> Self {
        let extension = Extension { mesh_id: self.mesh_id(), peers: self.peers().to_vec() };
        Self { fields: fields_from(&keys::stretched(seed)), extension: Some(extension) }
    }

    /// The token as one line: standard base64 of the YAML document.
    pub fn encode(&self) -> Zeroizing<String> {
        let check = self.check();
        text::encode(&self.fields.write(self.extension.as_ref().map(|extension| (extension, check.as_str()))))
    }

    /// Multiaddresses that the token names as first peers.
    pub fn peers(&self) -> &[String] {
        self.extension.as_ref().map_or(&[], |extension| &extension.peers)
    }

    /// Whether the original made it: its generators did not use a cryptographic random source for all of the token,
    /// so a WARN and `c3os rotate` are due.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.extension.is_none()
    }

    /// Derives every key of the mesh.
    pub fn keys(&self) -> NetworkKeys {
        NetworkKeys::derive(&keys::canonical(self.fields.secrets()), self.mesh_id())
    }

    fn mesh_id(&self) -> MeshId {
        self.extension.as_ref().map_or_else(
            || keys::mesh_id(&keys::canonical(self.fields.secrets())),
            |extension| extension.mesh_id,
        )
    }

    fn check(&self) -> String {
        let Fields { dht, crypto, max_message_size, .. } = &self.fields;
        let numbers = [dht.interval, dht.length, crypto.interval, crypto.length, *max_message_size];
        let numbers = numbers.map(|number| number.to_string());
        let mesh_id = self.mesh_id().to_string();
        let texts = self.fields.secrets().into_iter().chain(numbers.iter().map(String::as_str));
        keys::check(&keys::canonical(
            texts.chain([mesh_id.as_str()]).chain(self.peers().iter().map(String::as_str)),
        ))
    }
}

/// It prints nothing of itself.
impl fmt::Debug for NetworkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkToken(***)")
    }
}

fn fields_from(random: &[u8; 160]) -> Fields {
    let key = |index: usize| keys::key_text(&random[32 * index..32 * (index + 1)], KEY_LENGTH);
    let otp = |index| Otp { interval: INTERVAL, key: key(index), length: KEY_LENGTH as i64 };
    Fields {
        dht: otp(0),
        crypto: otp(1),
        room: key(2),
        rendezvous: key(3),
        mdns: key(4),
        max_message_size: MAX_MESSAGE_SIZE,
    }
}

#[cfg(test)]
mod tests;
