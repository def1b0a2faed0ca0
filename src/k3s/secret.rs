//! k3s' tokens and the hash that pins a server's CA.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Text that nobody may see in a log: it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Hash of a k3s server's CA bundle: 64 hexadecimal digits, as k3s puts it between `K10` and `::` in the tokens it
/// writes (docs.k3s.io, `cli/token`). Public.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaHash(String);

/// A text that is no CA hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CA hash is 64 hexadecimal digits")]
pub struct CaHashError;

impl CaHash {
    /// The hash in a token that k3s wrote in its secure form, `K10<hash>::<user>:<password>`.
    pub fn of_token(token: &str) -> Option<Self> {
        token.trim().strip_prefix("K10")?.split_once("::")?.0.parse().ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A token in k3s' secure form: whoever joins with it verifies the server's CA before it sends the password.
    pub(super) fn pin(&self, user: &str, password: &Secret) -> Secret {
        Secret::new(format!("K10{}::{user}:{}\n", self.0, password.reveal()))
    }
}

impl FromStr for CaHash {
    type Err = CaHashError;

    fn from_str(text: &str) -> Result<Self, CaHashError> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CaHashError)
        }
    }
}

impl TryFrom<String> for CaHash {
    type Error = CaHashError;

    fn try_from(text: String) -> Result<Self, CaHashError> {
        text.parse()
    }
}

impl From<CaHash> for String {
    fn from(hash: CaHash) -> Self {
        hash.0
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
