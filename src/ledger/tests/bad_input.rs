use minicbor::Encoder;
use proptest::prelude::*;

use super::*;
use crate::ledger::{
    Bounds, MAX_ENTRY, MAX_VALUE, PeerFault,
    wire::{BucketSet, Message, Row, Section},
};

/// A ledger with a neighbour, and the neighbour's id.
fn ledger() -> (Ledger, NodeId) {
    let (now, neighbour) = (start(), identity(2).id());
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    save(&mut ledger, &mut Vec::new(), now);
    ledger.handle_neighbour_up(neighbour, now);
    (ledger, neighbour)
}

pub(super) fn push(entries: &[&[u8]], author: NodeId) -> Vec<u8> {
    let entries = entries.iter().map(|bytes| (None, *bytes)).collect();
    Message::Entries(vec![Section { author, from: 0, through: 0, entries }]).encode()
}

/// The fuzz target of the codec: no bytes make it panic, and what parses is written the same again.
fn codec(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let again = message.encode();
        assert_eq!(Message::parse(&again).as_ref(), Ok(&message));
    }
    if let Ok(entry) = SignedEntry::parse_unverified(bytes) {
        assert_eq!(entry.to_bytes(), bytes);
    }
    let (mut ledger, neighbour) = ledger();
    let _ = ledger.handle_message(neighbour, bytes, start());
    while ledger.poll_message().is_some() {}
}

/// One message of every kind.
fn messages() -> Vec<Vec<u8>> {
    let (author, other) = (identity(3), identity(4));
    let row = Row { author: author.id(), have: 3, fingerprint: [5; 16], equivocated: false };
    let (one, two) = (entry(&author, 1, "a", b"1"), entry(&author, 2, "b", b"2"));
    let sections = vec![
        Section {
            author: author.id(),
            from: 0,
            through: 2,
            entries: vec![(None, one.to_bytes()), (Some(Duration::from_secs(5)), two.to_bytes())],
        },
        Section { author: other.id(), from: 7, through: 9, entries: vec![] },
    ];
    let clash = entry(&author, 1, "a", b"x");
    [
        Message::Digest([7; 16]),
        Message::Buckets(Box::new([[3; 8]; 256])),
        Message::Authors(BucketSet::ALL, vec![row.clone(), row.clone()]),
        Message::Offer(vec![row]),
        Message::Want(vec![(author.id(), 0), (other.id(), 9)]),
        Message::Entries(sections),
        Message::Proofs(vec![(one.to_bytes(), clash.to_bytes())]),
    ]
    .iter()
    .map(Message::encode)
    .collect()
}

#[test]
fn every_message_survives_the_wire() {
    for bytes in messages() {
        codec(&bytes);
        assert!(Message::parse(&bytes).is_ok());
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Err(PeerFault::MessageMalformed));
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        codec(&bytes);
    }

    #[test]
    fn mutated_messages_do_no_harm(
        which in 0_usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = messages().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        codec(&bytes);
        bytes.truncate(cut.index(bytes.len()) + 1);
        codec(&bytes);
    }
}

#[test]
fn a_forged_entry_is_refused_and_held_against_the_neighbour() {
    let (mut ledger, neighbour) = ledger();
    let good = entry(&identity(3), 1, "machine", b"value");
    let mut forged = good.to_bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let last = forged.len() - 2;
    forged[last] ^= 1;
    let result = ledger.handle_message(neighbour, &push(&[&forged], identity(3).id()), start());
    assert!(matches!(result, Err(PeerFault::EntrySignature | PeerFault::EntryMalformed)), "{result:?}");
    let mut forged = good.to_bytes().to_vec();
    forged[5] ^= 1;
    let result = ledger.handle_message(neighbour, &push(&[&forged], identity(3).id()), start());
    assert_eq!(result, Err(PeerFault::EntrySignature));
    assert_eq!(ledger.counters().forged, 1);
    // Under another author's name, or in another author's section.
    let result = ledger.handle_message(neighbour, &push(&[good.to_bytes()], identity(4).id()), start());
    assert_eq!(result, Err(PeerFault::MessageMalformed));
    assert_eq!(ledger.authors().count(), 0);
    assert_eq!(
        ledger.handle_message(neighbour, &push(&[good.to_bytes()], identity(3).id()), start()),
        Ok(())
    );
    assert_eq!(ledger.authors().count(), 1);
}

#[test]
fn oversize_is_refused_before_it_is_read() {
    let (mut ledger, neighbour) = ledger();
    let result = ledger.handle_message(neighbour, &vec![0x9b; 64 * 1024 + 1], start());
    assert_eq!(result, Err(PeerFault::MessageTooLong(64 * 1024 + 1)));
    let result = ledger.handle_message(neighbour, &push(&[&[0; MAX_ENTRY + 1]], identity(3).id()), start());
    assert_eq!(result, Err(PeerFault::EntryTooLong(MAX_ENTRY + 1)));
    assert_eq!(ledger.counters().oversize, 2);
    let error = ledger.put("key".parse().unwrap(), vec![0; MAX_VALUE + 1], None, start());
    assert!(error.unwrap_err().to_string().contains(&MAX_VALUE.to_string()));
}

#[test]
fn deep_nesting_is_refused_cheaply() {
    let (mut ledger, neighbour) = ledger();
    let result = ledger.handle_message(neighbour, &vec![0x81; 60_000], start());
    assert_eq!(result, Err(PeerFault::MessageMalformed));
    // Also where a later version's fields may stand.
    let mut bytes = vec![0x83, 0x01, 0x50];
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&[0x81; 60_000]);
    let result = ledger.handle_message(neighbour, &bytes, start());
    assert_eq!(result, Err(PeerFault::MessageMalformed));
    assert_eq!(ledger.counters().malformed, 2);
}

#[test]
fn strangers_and_unknown_kinds_are_only_counted() {
    let (mut ledger, neighbour) = ledger();
    assert_eq!(ledger.handle_message(identity(8).id(), &[0xff], start()), Ok(()));
    assert_eq!(ledger.counters().strangers, 1);
    let mut unknown = Encoder::new(Vec::new());
    unknown.array(2).unwrap().u8(99).unwrap().str("from a later version").unwrap();
    assert_eq!(ledger.handle_message(neighbour, &unknown.into_writer(), start()), Ok(()));
    assert_eq!(ledger.counters().unknown_kind, 1);
}

/// An entry as a later version may write it, with two fields more.
fn later_entry(version: u64) -> Vec<u8> {
    let author = identity(3);
    let mut body = Encoder::new(Vec::new());
    body.array(8).unwrap().u64(version).unwrap().bytes(author.id().as_bytes()).unwrap().u64(1).unwrap();
    body.str("machine").unwrap().bytes(b"value").unwrap().null().unwrap();
    body.str("a new field").unwrap().map(1).unwrap().u8(1).unwrap().array(0).unwrap();
    let body = body.into_writer();
    let mut bytes = author.sign("c3os ledger entry", &body).to_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

#[test]
fn fields_of_a_later_version_are_passed_on_with_their_signature() {
    let mut world = World::new(3, 31);
    world.link(0, 1);
    world.link(1, 2);
    world.run(Duration::from_secs(10));
    let bytes = later_entry(1);
    let from = world.id(0);
    world.hosts[1].ledger.handle_message(from, &push(&[&bytes], identity(3).id()), world.now).unwrap();
    world.pump(1);
    world.run(Duration::from_secs(10));
    let arrived = world.hosts[2].ledger.get(identity(3).id(), "machine").expect("passed on");
    assert_eq!(arrived.to_bytes(), bytes);
    assert!(SignedEntry::parse(arrived.to_bytes()).is_ok());
    world.restart(2, |_| ());
    let kept = world.hosts[2].ledger.get(identity(3).id(), "machine").expect("kept");
    assert_eq!(kept.to_bytes(), bytes);
}

#[test]
fn an_entry_of_an_unknown_layout_is_no_fault_of_who_brings_it() {
    let (mut ledger, neighbour) = ledger();
    let bytes = later_entry(2);
    assert_eq!(ledger.handle_message(neighbour, &push(&[&bytes], identity(3).id()), start()), Ok(()));
    assert_eq!((ledger.authors().count(), ledger.counters().refused_version), (0, 1));
    assert_eq!(SignedEntry::parse(&bytes), Err(PeerFault::EntryVersion(2)));
}

#[test]
fn an_author_gets_no_more_keys_or_bytes_than_its_share() {
    let (mut ledger, neighbour) = ledger();
    let author = identity(3);
    for seq in 1..=100 {
        let one = entry(&author, seq, &format!("key/{seq}"), b"x");
        ledger.handle_message(neighbour, &push(&[one.to_bytes()], author.id()), start()).unwrap();
    }
    let keys = Bounds::default().provisional_keys;
    assert_eq!(ledger.of_author(author.id()).count(), keys);
    assert_eq!(ledger.counters().refused_author_full, 100 - keys as u64);
    // What it has it may still change, and with a role it gets more.
    let change = entry(&author, 101, "key/1", b"y");
    ledger.handle_message(neighbour, &push(&[change.to_bytes()], author.id()), start()).unwrap();
    assert_eq!(ledger.get(author.id(), "key/1").map(SignedEntry::value), Some(&b"y"[..]));
    ledger.set_permanent([author.id()]);
    let more = entry(&author, 102, "key/100", b"z");
    ledger.handle_message(neighbour, &push(&[more.to_bytes()], author.id()), start()).unwrap();
    assert_eq!(ledger.of_author(author.id()).count(), keys + 1);
    let large = [7; MAX_VALUE];
    for seq in 200..220 {
        let one = entry(&identity(4), seq, &format!("key/{seq}"), &large);
        ledger.handle_message(neighbour, &push(&[one.to_bytes()], identity(4).id()), start()).unwrap();
    }
    assert!(ledger.of_author(identity(4).id()).count() * large.len() <= Bounds::default().provisional_bytes);
}

#[test]
fn invented_authors_put_out_the_silent_ones_but_nobody_with_a_role_and_no_neighbour() {
    let (mut ledger, neighbour) = ledger();
    let mut now = start();
    let with_role = identity(4);
    ledger.set_permanent([with_role.id()]);
    for author in [&identity(2), &with_role, &identity(5)] {
        let one = entry(author, 1, "machine", b"x");
        ledger.handle_message(neighbour, &push(&[one.to_bytes()], author.id()), now).unwrap();
    }
    for number in 0..400_u32 {
        let mut seed = [0xee; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let author = Identity::from_seed(&seed);
        now += Duration::from_millis(10);
        let one = entry(&author, 1, "machine", b"x");
        ledger.handle_message(neighbour, &push(&[one.to_bytes()], author.id()), now).unwrap();
        assert!(ledger.authors().count() <= Bounds::default().authors + 1);
    }
    assert!(ledger.get(with_role.id(), "machine").is_some(), "has a role");
    assert!(ledger.get(neighbour, "machine").is_some(), "is a neighbour");
    assert!(ledger.get(identity(5).id(), "machine").is_none(), "was silent longest");
    assert_eq!(ledger.counters().put_out, 402 - Bounds::default().authors as u64);
    // What was put out is not taken back for its old words, only for new ones.
    for (seq, back) in [(1, false), (2, true)] {
        let one = entry(&identity(5), seq, "machine", b"x");
        ledger.handle_message(neighbour, &push(&[one.to_bytes()], identity(5).id()), now).unwrap();
        assert_eq!(ledger.get(identity(5).id(), "machine").is_some(), back);
    }
}

#[test]
fn a_flood_of_signatures_is_cut_off_before_they_are_checked() {
    let (mut ledger, neighbour) = ledger();
    let author = identity(3);
    let entries: Vec<SignedEntry> = (1..=50).map(|seq| entry(&author, seq, "key", b"x")).collect();
    // Old after new is dropped for nothing; new after old costs a check each.
    let all: Vec<&[u8]> = entries.iter().map(SignedEntry::to_bytes).collect();
    ledger.spread.neighbours.get_mut(&neighbour).unwrap().checks =
        crate::ledger::rate::Bucket::full(20, 1, start());
    ledger.handle_message(neighbour, &push(&all, author.id()), start()).unwrap();
    assert_eq!((ledger.counters().accepted, ledger.counters().refused_rate), (20, 30));
    assert!(ledger.poll_timeout().is_some(), "what was cut off is asked for later");
}

#[test]
fn rows_of_authors_that_do_not_exist_cost_no_memory() {
    let (mut ledger, neighbour) = ledger();
    for round in 0..20_u32 {
        let rows = (0..900_u32).map(|number| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            id[4..8].copy_from_slice(&round.to_be_bytes());
            Row { author: NodeId::from_bytes(id), have: 5, fingerprint: [1; 16], equivocated: true }
        });
        let bytes = Message::Offer(rows.collect()).encode();
        ledger.handle_message(neighbour, &bytes, start()).unwrap();
    }
    let held = &ledger.spread.neighbours[&neighbour];
    assert!(held.awaited.len() <= 4096 && held.wants_due.len() <= 4096 && held.known.is_empty());
    assert_eq!(ledger.authors().count(), 0);
}
