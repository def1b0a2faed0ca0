//! The all-knowing ledger: everything that anybody ever wrote under its own name, to compare every member's with.

use std::collections::BTreeMap;

use c3os::{identity::NodeId, ledger::Ledger};

/// What an author wrote under one key, by number: the hashes of what was signed.
type Written = BTreeMap<u64, [u8; 32]>;

/// Everything that one author made visible.
#[derive(Default)]
struct Author {
    through: u64,
    /// It lost its disk, and with it perhaps what nobody else had.
    lost: bool,
    keys: BTreeMap<String, Written>,
}

/// Everything that anybody made visible on its own machine, which is when it may leave it.
#[derive(Default)]
pub struct Model {
    written: BTreeMap<NodeId, Author>,
}

impl Model {
    /// Takes in what a member has made visible of its own since it was looked at last.
    pub fn handle_visible(&mut self, ledger: &Ledger) {
        let me = ledger.id();
        let author = self.written.entry(me).or_default();
        author.lost |= ledger.amnesia();
        let have = ledger.have(me);
        if author.through == have {
            return;
        }
        author.through = have;
        for entry in ledger.of_author(me) {
            if let Some(written) = author.keys.get_mut(entry.key().as_str()) {
                written.insert(entry.seq(), *entry.hash());
            } else {
                let written = [(entry.seq(), *entry.hash())].into();
                author.keys.insert(entry.key().as_str().to_owned(), written);
            }
        }
    }

    /// Compares a member's ledger with what was really written by the authors that are `honest`. Where it is not `exact`,
    /// it may lack what it says that it holds.
    ///
    /// # Errors
    /// What it holds that nobody wrote, or lacks though it says that it holds everything up to there.
    pub fn check(
        &self,
        ledger: &Ledger,
        honest: impl Fn(&NodeId) -> bool,
        exact: bool,
    ) -> Result<(), String> {
        let me = ledger.id();
        for author in ledger.authors().filter(|author| *author != me && honest(author)) {
            let nothing = Author::default();
            let Author { keys, lost, .. } = self.written.get(&author).unwrap_or(&nothing);
            for entry in ledger.of_author(author) {
                let written = keys.get(entry.key().as_str()).and_then(|written| written.get(&entry.seq()));
                if written != Some(entry.hash()) {
                    return Err(format!("{me} holds {entry:?}, which its author never wrote"));
                }
            }
            let have = ledger.have(author);
            for (key, written) in keys.iter().filter(|_| exact && !lost) {
                // A catch-up leaves out what was replaced, also by something beyond its end: only what lives counts.
                let Some((seq, _)) = written.last_key_value().filter(|(seq, _)| **seq <= have) else {
                    continue;
                };
                let held = ledger.seq_of(author, key);
                if held.is_none_or(|held| held < *seq) {
                    return Err(format!(
                        "{me} says that it holds all of {author} up to {have}, but of {key} it holds {held:?} and not {seq}"
                    ));
                }
            }
        }
        Ok(())
    }
}
