//! Reads what members really send: the signed entries in a message of the ledger.

use c3os::{identity::NodeId, ledger::SignedEntry};
use minicbor::{Decoder, decode};

/// The kind of a message that carries entries (`src/ledger/wire.rs`).
const ENTRIES: u64 = 6;

/// Whether a message is of the kind that carries entries.
pub fn carries_entries(message: &[u8]) -> bool {
    message.get(1) == Some(&(ENTRIES as u8))
}

/// The entries of one author in a message; none if it is of another kind.
pub fn entries_of(author: NodeId, message: &[u8]) -> Vec<SignedEntry> {
    let mut found = Vec::new();
    // A message that cannot be read to its end carries what was read until then.
    let _ = read(author, &mut Decoder::new(message), &mut found);
    found
}

fn read(author: NodeId, from: &mut Decoder<'_>, into: &mut Vec<SignedEntry>) -> Result<(), decode::Error> {
    from.array()?;
    if from.u64()? != ENTRIES {
        return Ok(());
    }
    for _ in 0..from.array()?.unwrap_or(0) {
        from.array()?;
        let (of, _, _) = (from.bytes()?, from.u64()?, from.u64()?);
        for _ in 0..from.array()?.unwrap_or(0) {
            from.array()?;
            from.skip()?;
            let bytes = from.bytes()?;
            if of == author.as_bytes() {
                into.extend(SignedEntry::parse(bytes).ok());
            }
        }
    }
    Ok(())
}
