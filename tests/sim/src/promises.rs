//! What every voter ever answered over the wire, and that it never answered otherwise later.

use std::collections::{BTreeMap, BTreeSet};

use c3os::{
    election::Acceptor,
    identity::NodeId,
    ledger::{SignedEntry, decode},
};

/// Every acceptor register that was sent by its author.
#[derive(Default)]
pub struct Promises {
    seen: BTreeSet<[u8; 32]>,
    last: BTreeMap<(NodeId, String), (u64, Acceptor)>,
}

impl Promises {
    /// Takes an entry that its own author sends; `forgot`: the author knows that it lost what it had answered.
    ///
    /// # Errors
    /// How it contradicts what the author had sent before.
    pub fn handle_sent(&mut self, entry: &SignedEntry, forgot: bool) -> Result<(), String> {
        let key = entry.key().as_str();
        if !key.starts_with("acceptor/") || !self.seen.insert(*entry.hash()) {
            return Ok(());
        }
        let Ok(new) = decode::<Acceptor>(entry.value()) else {
            return Err(format!("{} sent an unreadable acceptor register", entry.author()));
        };
        let said = || format!("{} sent {new:?} under number {}", entry.author(), entry.seq());
        if new.void && (new.promised.is_some() || new.accepted.is_some()) {
            return Err(format!("{}: void, and votes", said()));
        }
        let place = (entry.author(), key.to_owned());
        match self.last.get(&place) {
            // An older register, sent to somebody who was late.
            Some((seq, _)) if *seq > entry.seq() => return Ok(()),
            Some((_, old)) => contradiction(old, &new, forgot).map_err(|why| format!("{}: {why}", said()))?,
            None if forgot && !new.void => return Err(format!("{}: an amnesiac votes", said())),
            None => {}
        }
        self.last.insert(place, (entry.seq(), new));
        Ok(())
    }
}

fn contradiction(old: &Acceptor, new: &Acceptor, forgot: bool) -> Result<(), String> {
    if new.void {
        return if old.void || forgot { Ok(()) } else { Err("void without a loss".to_owned()) };
    }
    let broken = if old.void {
        "it had been void"
    } else if forgot {
        "an amnesiac votes"
    } else if old.incarnation != new.incarnation {
        "it had another incarnation"
    } else if new.promised < old.promised {
        "it had promised a higher ballot"
    } else {
        match (&old.accepted, &new.accepted) {
            (Some(_), None) => "it had accepted a value",
            (Some((before, _)), Some((now, _))) if now < before => "it had accepted in a higher ballot",
            (Some((before, one)), Some((now, other))) if now == before && one != other => {
                "it had accepted another value in this ballot"
            }
            _ => return Ok(()),
        }
    };
    Err(format!("{broken}; it had sent {old:?}"))
}
