use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{bad_input::push, *};
use crate::ledger::{Damage, disk::Record, disk::write_record, own::LOSS_JUMP};

const MINUTE: Duration = Duration::from_secs(60);

/// A file of a ledger with entries of its own and of somebody else, in several appends; and its length after each.
fn file() -> (Vec<u8>, Vec<usize>) {
    let now = start();
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    let (mut disk, mut lengths) = (Vec::new(), Vec::new());
    save(&mut ledger, &mut disk, now);
    lengths.push(disk.len());
    for round in 0..4_u8 {
        ledger.put(format!("key/{}", round % 3).parse().unwrap(), vec![round; 20], None, now).unwrap();
        save(&mut ledger, &mut disk, now);
        let other = entry(&identity(2), u64::from(round) + 1, &format!("key/{round}"), b"theirs");
        ledger.persistence.mark_entry(other.author(), other.key().clone(), now);
        ledger.store.insert(other, None, now);
        lengths.push(disk.len());
    }
    ledger.put("last".parse().unwrap(), vec![9], None, now).unwrap();
    save(&mut ledger, &mut disk, now);
    lengths.push(disk.len());
    (disk, lengths)
}

#[test]
fn a_restart_brings_back_what_was_written_and_how_completely_it_is_held() {
    let mut world = World::new(3, 21);
    world.link_all();
    for host in 0..3 {
        (0..5).for_each(|key| world.put(host, &format!("key/{key}"), &[key]));
    }
    world.run(MINUTE);
    let root = world.hosts[1].ledger.store.digests().root();
    let (ledger, damage) =
        Ledger::restore(world.hosts[1].identity.clone(), [1; 32], &world.hosts[1].disk, world.now);
    assert_eq!(damage, []);
    assert_eq!(reading(&ledger), reading(&world.hosts[0].ledger));
    assert_eq!(ledger.store.digests().root(), root, "so nothing is sent again");
    assert_eq!(ledger.mark(), 5);
}

#[test]
fn a_file_cut_at_any_byte_loses_only_what_was_never_confirmed_by_then() {
    let (disk, lengths) = file();
    let whole = reading(&Ledger::restore(identity(1), [1; 32], &disk, start()).0);
    for cut in 1..=disk.len() {
        let (ledger, damage) = Ledger::restore(identity(1), [1; 32], &disk[..cut], start());
        if cut < lengths[0] {
            assert_eq!(damage, [Damage::CutSnapshot], "a snapshot is there as a whole or not at all");
            continue;
        }
        assert!(damage.iter().all(|damage| !damage.is_loss()), "a torn append is no loss: {damage:?}");
        assert!(!ledger.amnesia());
        let confirmed = lengths.iter().filter(|length| **length <= cut).count() - 1;
        assert!(ledger.of_author(identity(1).id()).count() >= confirmed.min(3));
        assert!(ledger.authors().all(|author| [identity(1).id(), identity(2).id()].contains(&author)));
        if cut == disk.len() {
            assert_eq!(reading(&ledger), whole);
        }
    }
}

#[test]
fn a_file_of_zeros_or_a_shorter_snapshot_is_a_loss() {
    let (mut disk, now) = (Vec::new(), start());
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    ledger.put("machine".parse().unwrap(), b"x".to_vec(), None, now).unwrap();
    save(&mut ledger, &mut disk, now);
    for cut in 0..disk.len() {
        assert!(Ledger::restore(identity(1), [1; 32], &disk[..cut], now).0.amnesia());
        assert!(Ledger::restore(identity(1), [1; 32], &vec![0; cut], now).0.amnesia());
    }
    // Zeros behind a good snapshot are what a crash leaves of an append.
    disk.extend_from_slice(&[0; 50]);
    let (ledger, damage) = Ledger::restore(identity(1), [1; 32], &disk, now);
    assert_eq!(damage, [Damage::TornTail { bytes: 50 }]);
    assert!(!ledger.amnesia());
}

#[test]
fn a_flipped_bit_in_the_last_record_is_a_loss_and_not_a_torn_write() {
    let (disk, lengths) = file();
    for at in lengths[lengths.len() - 2]..disk.len() {
        let mut disk = disk.clone();
        disk[at] ^= 0x04;
        assert!(Ledger::restore(identity(1), [1; 32], &disk, start()).0.amnesia(), "byte {at}");
    }
}

#[test]
fn an_empty_file_is_a_loss_and_the_words_say_so() {
    let (mut ledger, damage) = Ledger::restore(identity(1), [1; 32], &[], start());
    assert_eq!(damage, [Damage::Missing]);
    assert!(damage[0].to_string().contains("empty or gone"));
    assert!(ledger.amnesia());
    // It stays known over the next restart, which finds a good file.
    let mut disk = Vec::new();
    save(&mut ledger, &mut disk, start());
    let (ledger, damage) = Ledger::restore(identity(1), [1; 32], &disk, start());
    assert_eq!(damage, []);
    assert!(ledger.amnesia());
    assert!(ledger.mark() >= *LOSS_JUMP.start());
}

#[test]
fn a_file_that_is_lost_twice_does_not_come_to_the_same_numbers() {
    let marks: BTreeSet<u64> =
        (0..8).map(|boot| Ledger::restore(identity(1), [boot; 32], &[], start()).0.mark()).collect();
    let apart = marks.iter().zip(marks.iter().skip(1)).all(|(a, b)| b - a > *LOSS_JUMP.start());
    assert!(marks.len() == 8 && apart, "{marks:?}");
}

#[test]
fn a_second_loss_jumps_over_what_was_written_after_the_first_and_nobody_shows() {
    let now = start();
    let me = identity(1);
    let (mut ledger, _) = Ledger::restore(me.clone(), [1; 32], &[], now);
    ledger.handle_neighbour_up(identity(2).id(), now);
    // After the first loss it had jumped further, and the neighbour holds only the first word from there.
    let known = ledger.mark() + (1 << 39);
    let word = entry(&me, known, "machine", b"x");
    ledger.handle_message(identity(2).id(), &push(&[word.to_bytes()], me.id()), now).unwrap();
    assert!(ledger.mark() > known + LOSS_JUMP.start());
}

#[test]
fn own_writes_wait_for_a_peer_after_a_loss_but_not_for_ever() {
    let now = start();
    let (mut ledger, _) = Ledger::restore(identity(1), [1; 32], &[], now);
    ledger.put("machine".parse().unwrap(), b"x".to_vec(), None, now).unwrap();
    let mut disk = Vec::new();
    save(&mut ledger, &mut disk, now);
    assert!(ledger.get(identity(1).id(), "machine").is_none());
    let (at, _) = ledger.poll_timeout().expect("it does not wait for ever");
    assert!(at <= now + Duration::from_secs(10));
    ledger.handle_timeout(at);
    save(&mut ledger, &mut disk, at);
    assert!(ledger.get(identity(1).id(), "machine").is_some());
}

#[test]
fn after_a_loss_peers_give_back_everything_and_no_number_is_used_twice() {
    for wipe in [true, false] {
        let mut world = World::new(3, 22);
        world.link_all();
        (0..5).for_each(|round| world.put(0, &format!("key/{}", round % 3), &[round]));
        world.put(1, "machine", b"one");
        world.run(MINUTE);
        let before = reading(&world.hosts[1].ledger);
        world.restart(0, |disk| {
            if wipe {
                disk.clear();
            } else {
                let middle = disk.len() / 2;
                disk[middle] ^= 1;
            }
        });
        world.put(0, "key/0", b"after");
        world.run(2 * MINUTE);
        world.assert_equal();
        assert!(world.hosts[0].ledger.amnesia());
        let mut expected = before;
        expected.insert((world.id(0), "key/0".to_owned()), b"after".to_vec());
        assert_eq!(reading(&world.hosts[2].ledger), expected);
        assert!(world.hosts.iter().all(|host| host.ledger.equivocations().count() == 0));
    }
}

#[test]
fn a_file_that_went_back_in_time_is_noticed_by_peers_or_by_the_mark_kept_elsewhere() {
    let mut world = World::new(2, 23);
    world.link_all();
    world.put(0, "machine", b"1");
    let old = world.hosts[0].disk.clone();
    (2..6).for_each(|round| world.put(0, "machine", &[round]));
    world.run(MINUTE);
    let mark = world.hosts[0].ledger.mark();
    let (mut ledger, damage) = Ledger::restore(identity(1), [1; 32], &old, world.now);
    assert!(damage.is_empty() && !ledger.amnesia());
    ledger.handle_mark(mark, world.now);
    assert!(ledger.amnesia());
    // The mark was kept a while before the power went: what was written since had numbers above it.
    assert!(ledger.mark() > mark + LOSS_JUMP.start());
    world.restart(0, |disk| *disk = old);
    world.run(MINUTE);
    assert!(world.hosts[0].ledger.amnesia());
    world.assert_equal();
}

#[test]
fn nothing_of_our_own_is_seen_or_sent_before_the_disk_has_it() {
    let now = start();
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    let mut disk = Vec::new();
    save(&mut ledger, &mut disk, now);
    ledger.handle_neighbour_up(identity(2).id(), now);
    while ledger.poll_message().is_some() {}
    ledger.put("machine".parse().unwrap(), b"x".to_vec(), None, now).unwrap();
    let write = ledger.poll_write().expect("something to write");
    assert!(write.must_sync);
    assert!(ledger.poll_write().is_none(), "one at a time");
    assert!(ledger.get(identity(1).id(), "machine").is_none() && ledger.poll_message().is_none());
    assert_eq!(ledger.latest("machine"), Some(&b"x"[..]), "but we know what we said");
    ledger.handle_write_failed(now);
    assert!(ledger.poll_write().is_none(), "not at once again");
    let (at, _) = ledger.poll_timeout().expect("later");
    ledger.handle_timeout(at);
    let again = ledger.poll_write().expect("tried again");
    assert_eq!(again.kind, WriteKind::Replace);
    assert!(ledger.get(identity(1).id(), "machine").is_none() && ledger.poll_message().is_none());
    ledger.handle_written(at);
    assert_eq!(ledger.get(identity(1).id(), "machine").map(SignedEntry::seq), Some(1));
    assert!(ledger.poll_message().is_some());
    assert!(ledger.poll_changed());
    assert_eq!(ledger.counters().writes_failed, 1);
}

#[test]
fn writing_what_stands_costs_nothing() {
    let now = start();
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    let mut disk = Vec::new();
    for _ in 0..3 {
        ledger.put("machine".parse().unwrap(), b"x".to_vec(), None, now).unwrap();
        save(&mut ledger, &mut disk, now);
    }
    assert_eq!(ledger.mark(), 1);
}

#[test]
fn a_full_disk_is_tried_again_ever_more_rarely_and_nothing_is_lost() {
    let mut now = start();
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    ledger.put("machine".parse().unwrap(), b"x".to_vec(), None, now).unwrap();
    let mut tries = 0;
    let end = now + 10 * MINUTE;
    while now < end {
        ledger.handle_timeout(now);
        if ledger.poll_write().is_some() {
            tries += 1;
            ledger.handle_write_failed(now);
        }
        now = ledger.poll_timeout().expect("it goes on trying").0;
    }
    assert!((10..20).contains(&tries), "{tries} tries in ten minutes");
    ledger.handle_timeout(now);
    save(&mut ledger, &mut Vec::new(), now);
    assert!(ledger.get(identity(1).id(), "machine").is_some());
}

#[test]
fn the_file_does_not_grow_with_the_number_of_writes() {
    let now = start();
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    let mut disk = Vec::new();
    for round in 0..3000_u32 {
        ledger.put("machine".parse().unwrap(), round.to_be_bytes().repeat(50), None, now).unwrap();
        save(&mut ledger, &mut disk, now);
        assert!(disk.len() < 300 * 1024);
        assert_eq!(disk.len(), ledger.counters().log_bytes);
    }
    let (ledger, _) = Ledger::restore(identity(1), [1; 32], &disk, now);
    assert_eq!(ledger.mark(), 3000);
}

#[test]
fn a_record_planted_in_a_value_is_not_found_when_the_file_is_damaged() {
    let now = start();
    let mut planted = Vec::new();
    let victim = Record::Entry(entry(&identity(3), 7, "planted", b"x"), None);
    // The attacker does not know the key of the victim's file, only its own.
    write_record(&mut planted, &crate::ledger::disk::DiskKey::new(&identity(2)), &victim);
    let mut ledger = Ledger::new(identity(1), [1; 32], now);
    ledger.store.insert(entry(&identity(2), 1, "key", &planted), None, now);
    let mut disk = Vec::new();
    save(&mut ledger, &mut disk, now);
    for at in 0..disk.len() {
        let mut disk = disk.clone();
        disk[at] ^= 0x10;
        let (ledger, _) = Ledger::restore(identity(1), [1; 32], &disk, now);
        assert!(ledger.get(identity(3).id(), "planted").is_none());
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn damage_costs_the_records_it_is_in_and_invents_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (good, _) = file();
        let whole = Ledger::restore(identity(1), [1; 32], &good, start()).0;
        let mut disk = good.clone();
        for (at, bits) in &flips {
            disk[at.index(good.len())] ^= bits;
        }
        disk.truncate(cut.index(good.len()) + 1);
        let (ledger, damage) = Ledger::restore(identity(1), [1; 32], &disk, start());
        // Every entry is one that was written: the newest, or one that the newest had replaced.
        for one in ledger.with_prefix("") {
            prop_assert!(SignedEntry::parse(one.to_bytes()).is_ok());
            let newest = whole.get(one.author(), one.key()).expect("a key that was written");
            prop_assert!(one.seq() <= newest.seq());
        }
        let lost = damage.iter().any(Damage::is_loss);
        prop_assert_eq!(ledger.amnesia(), lost);
        if lost {
            prop_assert!(ledger.mark() > whole.mark());
        }
        for author in ledger.authors() {
            prop_assert!(ledger.store.have(&author) <= whole.store.have(&author));
        }
    }

    #[test]
    fn no_file_makes_it_panic(disk in prop::collection::vec(any::<u8>(), 0..600)) {
        Ledger::restore(identity(1), [1; 32], &disk, start());
    }

    /// Crashes at every point between deciding, writing and confirming: whatever anybody ever saw under a number
    /// stays the only thing under that number.
    #[test]
    fn a_number_is_never_used_twice_whenever_it_crashes(
        steps in prop::collection::vec((0_u8..3, any::<u8>(), 0_u8..5, any::<prop::sample::Index>()), 1..40),
    ) {
        let now = start();
        let mut ledger = Ledger::new(identity(1), [1; 32], now);
        let mut disk = Vec::new();
        save(&mut ledger, &mut disk, now);
        let mut seen: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
        for (key, value, fate, at) in steps {
            ledger.put(format!("key/{key}").parse().unwrap(), vec![value], None, now).unwrap();
            let crashes = match fate {
                // It crashes before anything is written.
                0 => true,
                // In the middle of writing.
                1 | 2 => {
                    if let Some(write) = ledger.poll_write()
                        && write.kind == WriteKind::Append
                    {
                        disk.extend_from_slice(&write.bytes[..at.index(write.bytes.len() + 1)]);
                    }
                    true
                }
                // After writing, before confirming.
                3 => {
                    match ledger.poll_write() {
                        Some(write) if write.kind == WriteKind::Append => disk.extend_from_slice(&write.bytes),
                        Some(write) => disk = write.bytes,
                        None => {}
                    }
                    true
                }
                _ => {
                    save(&mut ledger, &mut disk, now);
                    false
                }
            };
            if crashes {
                let damage;
                (ledger, damage) = Ledger::restore(identity(1), [1; 32], &disk, now);
                prop_assert!(damage.iter().all(|damage| !damage.is_loss()), "{:?}", damage);
                // What it found torn is put right by the first write.
                save(&mut ledger, &mut disk, now);
            }
            for one in ledger.of_author(identity(1).id()) {
                prop_assert_eq!(*seen.entry(one.seq()).or_insert(*one.hash()), *one.hash());
            }
        }
    }
}
