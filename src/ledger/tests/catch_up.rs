use proptest::prelude::*;

use super::*;
use crate::ledger::wire::{Message, Section};

/// A part of what an author wrote, as somebody who held all of it up to `state` would send it.
#[derive(Debug, Clone)]
enum Piece {
    /// Everything live in `(from, through]`.
    Range { state: usize, from: usize, through: usize },
    /// One entry from wherever.
    Single(usize),
}

/// What is not replaced after these writes.
fn live(writes: &[SignedEntry]) -> Vec<&SignedEntry> {
    let replaced =
        |one: &&SignedEntry| writes.iter().any(|other| other.key() == one.key() && other.seq() > one.seq());
    writes.iter().filter(|one| !replaced(one)).collect()
}

fn piece(writes: usize) -> impl Strategy<Value = Piece> {
    let range = (0..=writes, 0..=writes, 0..=writes).prop_map(|(a, b, c)| {
        let mut sorted = [a, b, c];
        sorted.sort_unstable();
        let [from, through, state] = sorted;
        Piece::Range { state, from, through }
    });
    prop_oneof![2 => range, 1 => (1..=writes).prop_map(Piece::Single)]
}

fn send(ledger: &mut Ledger, from: NodeId, author: NodeId, range: (u64, u64), entries: &[&SignedEntry]) {
    let entries = entries.iter().map(|one| (None, one.to_bytes())).collect();
    let section = Section { author, from: range.0, through: range.1, entries };
    let bytes = Message::Entries(vec![section]).encode();
    ledger.handle_message(from, &bytes, start()).expect("honest");
}

proptest! {
    #![proptest_config(cases(200))]

    /// The rule that everything rests on: `have = s` says that every entry up to s that its author has not replaced
    /// is held, in whatever order the parts come, doubled or left out.
    #[test]
    fn have_never_promises_what_is_not_held(
        keys in prop::collection::vec(0_u8..5, 1..16),
        pieces in prop::collection::vec(piece(16), 1..24),
    ) {
        let (author, now) = (identity(1), start());
        let writes: Vec<SignedEntry> = keys
            .iter()
            .enumerate()
            .map(|(at, key)| entry(&author, at as u64 + 1, &format!("key/{key}"), &[at as u8]))
            .collect();
        let live_in = |state: usize| live(&writes[..state]);
        let mut ledger = Ledger::new(identity(2), [2; 32], now);
        let neighbour = identity(3).id();
        ledger.handle_neighbour_up(neighbour, now);
        for piece in pieces {
            match piece {
                Piece::Range { state, from, through } => {
                    let state = state.min(writes.len());
                    let (from, through) = (from as u64, through.min(state) as u64);
                    let part: Vec<&SignedEntry> =
                        live_in(state).into_iter().filter(|one| one.seq() > from && one.seq() <= through).collect();
                    send(&mut ledger, neighbour, author.id(), (from, through.max(from)), &part);
                }
                Piece::Single(at) => {
                    let at = at.min(writes.len());
                    // No range is claimed: from and through are the same.
                    send(&mut ledger, neighbour, author.id(), (0, 0), &[&writes[at - 1]]);
                }
            }
            let have = ledger.store.have(&author.id());
            for one in live_in(writes.len()).into_iter().filter(|one| one.seq() <= have) {
                prop_assert_eq!(ledger.get(author.id(), one.key()), Some(one), "have is {}", have);
            }
        }
        let all = live_in(writes.len());
        send(&mut ledger, neighbour, author.id(), (0, writes.len() as u64), &all);
        prop_assert_eq!(ledger.store.have(&author.id()), writes.len() as u64);
        prop_assert_eq!(ledger.of_author(author.id()).count(), all.len());
    }
}

#[test]
fn an_entry_from_further_ahead_is_read_and_raises_nothing() {
    let (author, now) = (identity(1), start());
    let mut ledger = Ledger::new(identity(2), [2; 32], now);
    let neighbour = identity(3).id();
    ledger.handle_neighbour_up(neighbour, now);
    send(&mut ledger, neighbour, author.id(), (4, 5), &[&entry(&author, 5, "machine", b"new")]);
    assert!(ledger.get(author.id(), "machine").is_some());
    assert_eq!(ledger.store.have(&author.id()), 0);
    send(&mut ledger, neighbour, author.id(), (0, 4), &[&entry(&author, 2, "address", b"a")]);
    assert_eq!(ledger.store.have(&author.id()), 5, "up to 4 by the range, and 5 was there");
}

#[test]
fn what_was_sent_and_lost_is_not_promised_over() {
    let (author, now) = (identity(1), start());
    let [mut sender, mut receiver] = [2, 3].map(|number| Ledger::new(identity(number), [number; 32], now));
    sender.handle_neighbour_up(author.id(), now);
    sender.handle_neighbour_up(receiver.id(), now);
    receiver.handle_neighbour_up(sender.id(), now);
    let writes: Vec<_> = (1..=4).map(|seq| entry(&author, seq, &format!("key/{seq}"), b"x")).collect();
    let entries_for = |ledger: &mut Ledger, to: NodeId| -> Vec<Vec<u8>> {
        let messages = std::iter::from_fn(|| ledger.poll_message()).filter(|(id, _)| *id == to);
        let messages = messages.map(|(_, bytes)| bytes);
        messages.filter(|bytes| matches!(Message::parse(bytes), Ok(Message::Entries(_)))).collect()
    };
    // The third comes first, is passed on at once, and gets lost.
    send(&mut sender, author.id(), author.id(), (2, 3), &[&writes[2]]);
    assert_eq!(entries_for(&mut sender, receiver.id()).len(), 1);
    send(&mut sender, author.id(), author.id(), (0, 4), &[&writes[0], &writes[1], &writes[3]]);
    for bytes in entries_for(&mut sender, receiver.id()) {
        receiver.handle_message(sender.id(), &bytes, now).expect("honest");
    }
    assert!(receiver.get(author.id(), "key/4").is_some());
    assert_eq!(receiver.have(author.id()), 2, "the third is not held");
}

#[test]
fn a_neighbour_cannot_promise_more_than_the_author_signed() {
    let (author, now) = (identity(1), start());
    let mut ledger = Ledger::new(identity(2), [2; 32], now);
    let liar = identity(3).id();
    ledger.handle_neighbour_up(liar, now);
    send(&mut ledger, liar, author.id(), (0, u64::MAX), &[&entry(&author, 2, "machine", b"x")]);
    assert_eq!(ledger.store.have(&author.id()), 2);
    send(&mut ledger, liar, identity(9).id(), (0, 50), &[]);
    assert_eq!(ledger.store.have(&identity(9).id()), 0);
    assert_eq!(ledger.authors().count(), 1);
}

#[test]
fn what_a_liar_withheld_comes_from_the_honest() {
    let (author, now) = (identity(9), start());
    let mut world = World::new(2, 1);
    let first = entry(&author, 1, "address", b"a");
    let second = entry(&author, 2, "machine", b"m");
    // The liar gave host 0 the second entry and "that is all".
    world.hosts[0].ledger.store.insert(second.clone(), None, now);
    world.hosts[0].ledger.store.raise_through(author.id(), 0, 2, now);
    for one in [first, second] {
        world.hosts[1].ledger.store.insert(one, None, now);
    }
    world.link(0, 1);
    world.run(Duration::from_secs(20));
    world.assert_equal();
    assert!(world.hosts[0].ledger.get(author.id(), "address").is_some());
}
