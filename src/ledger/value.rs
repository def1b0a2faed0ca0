//! Values are CBOR maps with named fields: readable by a later version and by an earlier one.

use minicbor::decode::Decoder;
use serde::{Serialize, de::DeserializeOwned};

use super::LedgerError;

/// Deeper nesting than any value of ours has; above it a value is refused before serde walks it.
const MAX_DEPTH: usize = 16;

/// Makes the bytes of a ledger value. Fields are written by name.
///
/// # Errors
/// [`LedgerError::Encode`] for a type that CBOR through serde cannot carry.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, LedgerError> {
    minicbor_serde::to_vec(value).map_err(|error| LedgerError::Encode(error.to_string()))
}

/// Reads a ledger value. Unknown fields are ignored, missing ones are an error unless they have a default.
///
/// # Errors
/// [`LedgerError::Decode`] if the bytes are not exactly one CBOR value of this type, or are nested too deeply.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LedgerError> {
    check_depth(bytes)?;
    minicbor_serde::from_slice(bytes).map_err(|error| LedgerError::Decode(error.to_string()))
}

/// Walks the bytes without recursion: exactly one value, no deeper than [`MAX_DEPTH`], no indefinite lengths (we
/// never write them).
fn check_depth(bytes: &[u8]) -> Result<(), LedgerError> {
    use minicbor::data::Type;
    let bad = |text: &str| LedgerError::Decode(text.to_owned());
    let mut decoder = Decoder::new(bytes);
    let mut open: Vec<u64> = vec![1];
    while let Some(left) = open.last_mut() {
        if *left == 0 {
            open.pop();
            continue;
        }
        *left -= 1;
        let kind = decoder.datatype().map_err(|error| bad(&error.to_string()))?;
        let inside = match kind {
            Type::Array => decoder.array().map(|n| n.unwrap_or(0)),
            Type::Map => decoder.map().map(|n| n.unwrap_or(0).saturating_mul(2)),
            Type::Tag => decoder.tag().map(|_| 1),
            Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break => {
                return Err(bad("lengths must be definite"));
            }
            Type::Bool
            | Type::Null
            | Type::Undefined
            | Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int
            | Type::F16
            | Type::F32
            | Type::F64
            | Type::Simple
            | Type::Bytes
            | Type::String
            | Type::Unknown(_) => decoder.skip().map(|()| 0),
        }
        .map_err(|error| bad(&error.to_string()))?;
        if inside > 0 {
            if open.len() > MAX_DEPTH {
                return Err(bad("nested too deeply"));
            }
            open.push(inside);
        }
    }
    if decoder.position() == bytes.len() { Ok(()) } else { Err(bad("bytes after the value")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::identity::NodeId;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        name: String,
        peers: Vec<NodeId>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        name: String,
        peers: Vec<NodeId>,
        #[serde(default)]
        round_trips: BTreeMap<String, u32>,
        #[serde(default)]
        note: Option<String>,
    }

    #[test]
    fn neighbouring_versions_read_each_others_values() {
        let peers = vec![NodeId::from_bytes([7; 32])];
        let new = New {
            name: "a".into(),
            peers: peers.clone(),
            round_trips: [("b".into(), 5)].into(),
            note: Some("n".into()),
        };
        let old: Old = decode(&encode(&new).expect("encodes")).expect("the old one ignores new fields");
        assert_eq!(old, Old { name: "a".into(), peers: peers.clone() });
        let new: New = decode(&encode(&old).expect("encodes")).expect("the new one has defaults");
        assert_eq!(new, New { name: "a".into(), peers, round_trips: BTreeMap::new(), note: None });
    }

    #[test]
    fn deep_nesting_and_leftovers_are_refused() {
        let mut deep = vec![0x81; 16_000];
        deep.push(0);
        assert!(decode::<serde::de::IgnoredAny>(&deep).is_err());
        assert!(decode::<u8>(&[1, 2]).is_err());
        assert!(decode::<u8>(&[]).is_err());
        assert!(decode::<Vec<u8>>(&[0x9f, 0x01, 0xff]).is_err());
        // A length that no memory holds is refused by looking for what it announces.
        assert!(decode::<Vec<u64>>(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
