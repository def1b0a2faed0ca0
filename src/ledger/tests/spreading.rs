use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_write_reaches_everybody_over_several_hops_in_the_time_of_the_wire() {
    let mut world = World::new(6, 1);
    (0..5).for_each(|host| world.link(host, host + 1));
    world.run(Duration::from_secs(10));
    world.put(0, "machine", b"first");
    world.run(Duration::from_millis(50));
    for host in &world.hosts {
        assert_eq!(host.ledger.get(world.id(0), "machine").map(SignedEntry::value), Some(&b"first"[..]));
    }
    world.run(MINUTE);
    world.assert_equal();
}

#[test]
fn an_entry_is_sent_over_each_link_about_once() {
    let mut world = World::new(5, 2);
    world.link_all();
    world.run(MINUTE);
    let before: u64 = world.hosts.iter().map(|host| host.ledger.counters().known).sum();
    world.put(0, "machine", b"value");
    world.run(MINUTE);
    let doubles = world.hosts.iter().map(|host| host.ledger.counters().known).sum::<u64>() - before;
    // Ten links; two ends may send to each other at the same time, and nobody sends back to whom it came from.
    assert!(doubles <= 12, "{doubles} doubles");
    world.assert_equal();
}

#[test]
fn an_idle_mesh_is_nearly_silent() {
    let mut world = World::new(8, 3);
    world.link_all();
    for host in 0..8 {
        world.put(host, "machine", &[1; 200]);
    }
    world.run(5 * MINUTE);
    world.assert_equal();
    world.sent_bytes = 0;
    world.run(10 * MINUTE);
    let per_node_and_minute = world.sent_bytes / 8 / 10;
    assert!(per_node_and_minute <= 40, "{per_node_and_minute} bytes per node and minute");
    assert!(world.sent_bytes > 0, "but not dead");
}

#[test]
fn a_newcomer_gets_everything_and_not_from_everybody() {
    let mut world = World::new(9, 4);
    for a in 0..8 {
        (0..a).for_each(|b| world.link(a, b));
    }
    for host in 0..8 {
        (0..6).for_each(|key| world.put(host, &format!("key/{key}"), &[key; 400]));
    }
    world.run(5 * MINUTE);
    world.sent_bytes = 0;
    (0..8).for_each(|host| world.link(8, host));
    world.run(MINUTE);
    world.assert_equal();
    let whole = world.hosts[8].ledger.counters().bytes;
    assert!(world.sent_bytes < whole * 2, "{} bytes sent for {whole}", world.sent_bytes);
    assert!((0..8).all(|host| world.hosts[8].ledger.has_exchanged_with(&world.id(host))));
}

#[test]
fn an_exchange_with_an_equal_neighbour_is_known_on_both_sides() {
    let mut world = World::new(2, 4);
    assert!(!world.hosts[0].ledger.has_exchanged_with(&world.id(1)));
    world.link(0, 1);
    world.run(Duration::from_secs(1));
    assert!(world.hosts[0].ledger.has_exchanged_with(&world.id(1)));
    assert!(world.hosts[1].ledger.has_exchanged_with(&world.id(0)));
}

#[test]
fn a_neighbour_whose_word_was_lost_is_asked_again() {
    for seed in 0..40 {
        let mut world = World::new(2, seed);
        world.wire.loss = 60;
        world.link(0, 1);
        world.run(Duration::from_secs(4));
        world.wire.loss = 0;
        world.run(Duration::from_secs(8));
        assert!(world.hosts[0].ledger.has_exchanged_with(&world.id(1)), "seed {seed}");
        assert!(world.hosts[1].ledger.has_exchanged_with(&world.id(0)), "seed {seed}");
    }
}

#[test]
fn a_chatty_author_is_passed_on_at_a_bounded_rate_and_its_last_word_arrives() {
    let mut world = World::new(3, 5);
    world.link(0, 1);
    world.link(1, 2);
    world.run(MINUTE);
    let before = world.hosts[1].ledger.counters().messages_out;
    for round in 0..600_u32 {
        world.put(0, "machine", &round.to_be_bytes());
        world.run(Duration::from_millis(100));
    }
    world.run(Duration::from_secs(5));
    let forwarded = world.hosts[1].ledger.counters().messages_out - before;
    assert!(forwarded < 16 + 65 + 100, "{forwarded} messages for a minute of ten writes a second");
    let last = world.hosts[2].ledger.get(world.id(0), "machine").map(SignedEntry::value);
    assert_eq!(last, Some(&599_u32.to_be_bytes()[..]));
    world.run(MINUTE);
    world.assert_equal();
}

#[test]
fn a_thousand_authors_reach_a_newcomer_within_seconds() {
    let now = start();
    let mut world = World::new(2, 6);
    let authors: Vec<Identity> = (0..1000_u32)
        .map(|number| {
            let mut seed = [7; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            Identity::from_seed(&seed)
        })
        .collect();
    for host in &mut world.hosts {
        host.ledger.set_permanent(authors.iter().map(Identity::id));
    }
    for author in &authors {
        for key in 1..=6 {
            let one = entry(author, key, &format!("key/{key}"), &[1; 150]);
            world.hosts[0].ledger.store.insert(one, None, now);
        }
    }
    world.link(0, 1);
    world.run(Duration::from_secs(8));
    world.assert_equal();
    assert_eq!(world.hosts[1].ledger.with_prefix("key/").count(), 6000);
    // A change costs neither of them the size of the ledger.
    world.sent_bytes = 0;
    world.put(0, "machine", b"small");
    world.run(Duration::from_secs(30));
    assert!(world.sent_bytes < 1000, "{} bytes for one small entry", world.sent_bytes);
    world.assert_equal();
}

#[test]
fn in_a_mesh_of_a_hundred_a_change_reaches_all_within_seconds_and_silence_follows() {
    let mut world = World::new(100, 9);
    // A ring with two long chords each: six neighbours per node.
    for host in 0..100 {
        for step in [1, 17, 41] {
            world.link(host, (host + step) % 100);
        }
    }
    for host in 0..100 {
        world.put(host, "machine", &[1; 200]);
    }
    world.run(3 * MINUTE);
    world.assert_equal();
    world.sent_bytes = 0;
    world.put(0, "machine", b"news");
    world.run(Duration::from_secs(1));
    let reached = world
        .hosts
        .iter()
        .filter(|host| host.ledger.get(world.id(0), "machine").map(SignedEntry::value) == Some(b"news"));
    assert_eq!(reached.count(), 100);
    world.run(MINUTE);
    let per_node = world.sent_bytes / 100;
    assert!(per_node < 2500, "{per_node} bytes per node for one change and a minute");
    world.assert_equal();
    world.sent_bytes = 0;
    world.run(10 * MINUTE);
    let per_node_and_minute = world.sent_bytes / 100 / 10;
    assert!(per_node_and_minute < 40, "{per_node_and_minute} bytes per node and minute");
}

#[test]
fn a_time_to_live_counts_down_and_travels_as_what_is_left() {
    let mut world = World::new(3, 7);
    world.link(0, 1);
    world.hosts[0]
        .ledger
        .put("presence".parse().unwrap(), b"here".to_vec(), Some(MINUTE), world.now)
        .unwrap();
    world.pump(0);
    world.run(Duration::from_secs(50));
    world.link(1, 2);
    world.run(Duration::from_secs(5));
    let author = world.id(0);
    assert!(world.hosts[2].ledger.get(author, "presence").is_some());
    assert!(world.hosts[2].ledger.poll_changed());
    world.run(Duration::from_secs(6));
    for host in &mut world.hosts {
        assert!(host.ledger.get(author, "presence").is_none(), "61 s after it was written for 60 s");
        assert!(host.ledger.poll_changed());
    }
    world.run(5 * MINUTE);
    world.assert_equal();
}

#[test]
fn a_removed_key_is_gone_everywhere_and_stays_so() {
    let mut world = World::new(3, 8);
    world.link(0, 1);
    world.link(1, 2);
    world.put(0, "machine", b"x");
    world.run(MINUTE);
    world.cut(1, 2);
    world.hosts[0].ledger.remove(&"machine".parse().unwrap(), world.now);
    world.pump(0);
    world.run(MINUTE);
    assert!(world.hosts[2].ledger.get(world.id(0), "machine").is_some());
    world.link(1, 2);
    world.run(MINUTE);
    assert!(world.hosts.iter().all(|host| host.ledger.get(world.id(0), "machine").is_none()));
    world.assert_equal();
}

/// What may happen to a world.
#[derive(Debug, Clone)]
enum Action {
    Put(usize, u8, u8),
    Remove(usize, u8),
    Link(usize, usize),
    Cut(usize, usize),
    Restart(usize),
    Run(u64),
    Wire(u32, u32, u64),
}

fn action(hosts: usize) -> impl Strategy<Value = Action> {
    let host = move || 0..hosts;
    prop_oneof![
        6 => (host(), 0_u8..4, any::<u8>()).prop_map(|(host, key, value)| Action::Put(host, key, value)),
        1 => (host(), 0_u8..4).prop_map(|(host, key)| Action::Remove(host, key)),
        2 => (host(), host()).prop_map(|(a, b)| Action::Link(a, b)),
        2 => (host(), host()).prop_map(|(a, b)| Action::Cut(a, b)),
        1 => host().prop_map(Action::Restart),
        4 => (1_u64..20_000).prop_map(Action::Run),
        1 => (0_u32..50, 0_u32..30, 1_u64..3000).prop_map(|(a, b, c)| Action::Wire(a, b, c)),
    ]
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn whatever_happened_healed_ledgers_become_equal(seed: u64, actions in prop::collection::vec(action(5), 1..60)) {
        let mut world = World::new(5, seed);
        let mut latest = Reading::new();
        for action in actions {
            match action {
                Action::Put(host, key, value) => {
                    world.put(host, &format!("key/{key}"), &[value]);
                    latest.insert((world.id(host), format!("key/{key}")), vec![value]);
                }
                Action::Remove(host, key) => {
                    world.hosts[host].ledger.remove(&format!("key/{key}").parse().unwrap(), world.now);
                    world.pump(host);
                    latest.remove(&(world.id(host), format!("key/{key}")));
                }
                Action::Link(a, b) => world.link(a, b),
                Action::Cut(a, b) => world.cut(a, b),
                Action::Restart(host) => world.restart(host, |_| ()),
                Action::Run(milliseconds) => world.run(Duration::from_millis(milliseconds)),
                Action::Wire(loss, doubling, delay) => world.wire = Wire { loss, doubling, delay },
            }
        }
        world.wire = Wire { loss: 0, doubling: 0, delay: 5 };
        (0..4).for_each(|host| world.link(host, host + 1));
        world.run(10 * MINUTE);
        world.assert_equal();
        prop_assert_eq!(reading(&world.hosts[0].ledger), latest);
        prop_assert!(world.hosts.iter().all(|host| !host.ledger.amnesia() && host.ledger.equivocations().count() == 0));
    }
}
