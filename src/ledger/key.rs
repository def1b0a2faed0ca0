//! The name under which an author keeps a value.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::LedgerError;

/// A ledger key: 1 to 128 characters of `a-z A-Z 0-9 . _ / -`, by habit `noun/<network id>/<node id>`.
///
/// Cloning is cheap. It orders by bytes, the same on every machine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// The most characters of a key.
    pub const MAX_LEN: usize = 128;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` has the shape of a key.
    pub(super) fn is_well_formed(text: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
        (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)
    }
}

impl FromStr for Key {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        if Self::is_well_formed(text) { Ok(Self(text.into())) } else { Err(LedgerError::KeyShape) }
    }
}

impl TryFrom<String> for Key {
    type Error = LedgerError;

    fn try_from(text: String) -> Result<Self, LedgerError> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.as_str().to_owned()
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_plain_text_is_a_key() {
        for good in ["a", "machine", "assignment/c3os/12D3KooWabc", "x.y_z-0/A", &"k".repeat(128)] {
            assert_eq!(good.parse::<Key>().expect("a key").as_str(), good);
        }
        for bad in ["", " ", "a b", "ä", "a\n", "a\0", "a:b", &"k".repeat(129)] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
    }
}
