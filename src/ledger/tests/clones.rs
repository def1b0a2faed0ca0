use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Hosts 0 and 3 run with one identity, with hosts 1 and 2 between them.
fn world_with_clones() -> World {
    let mut world = World::new(4, 11);
    let identity = world.hosts[0].identity.clone();
    world.hosts[3] =
        Host { ledger: Ledger::new(identity.clone(), [3; 32], world.now), identity, disk: Vec::new() };
    world.pump(3);
    world
}

#[test]
fn two_machines_with_one_identity_are_found_out_by_everybody() {
    let mut world = world_with_clones();
    world.put(0, "machine", b"this one");
    world.put(3, "machine", b"that one");
    for (a, b) in [(0, 1), (1, 2), (2, 3)] {
        world.link(a, b);
    }
    world.run(5 * MINUTE);
    for host in &world.hosts {
        let proof = host.ledger.equivocations().next().expect("the proof is everywhere");
        let (one, other) = proof.entries();
        assert_eq!((one.author(), one.seq()), (other.author(), other.seq()));
        assert!(one.hash() < other.hash());
        assert_eq!(host.ledger.get(world.id(0), "machine"), Some(one), "the lower hash stands");
    }
    world.assert_equal();
}

#[test]
fn clones_that_go_on_writing_do_not_keep_the_ledgers_apart() {
    let mut world = world_with_clones();
    for round in 0..4 {
        world.put(0, &format!("this/{round}"), &[round]);
        world.put(3, &format!("that/{}", round % 2), &[round]);
    }
    world.put(0, "machine", b"x");
    for (a, b) in [(0, 1), (1, 2), (2, 3)] {
        world.link(a, b);
    }
    world.run(MINUTE);
    world.put(3, "machine", b"y");
    world.put(0, "this/9", b"z");
    world.run(10 * MINUTE);
    world.assert_equal();
    assert!(world.hosts[1].ledger.equivocations().count() == 1);
    // It survives a restart, and whoever comes later hears of it.
    world.restart(1, |_| ());
    assert!(world.hosts[1].ledger.equivocations().count() == 1);
    world.run(5 * MINUTE);
    world.assert_equal();
}

#[test]
fn the_machine_that_hears_its_own_future_is_amnesiac() {
    let mut world = world_with_clones();
    for (a, b) in [(0, 1), (1, 2)] {
        world.link(a, b);
    }
    (0..5).for_each(|round| world.put(0, "machine", &[round]));
    world.run(MINUTE);
    assert!(!world.hosts[0].ledger.amnesia());
    world.link(2, 3);
    world.run(MINUTE);
    assert!(world.hosts[3].ledger.amnesia());
    world.put(3, "machine", b"after");
    world.run(MINUTE);
    let mine = world.hosts[1].ledger.get(world.id(3), "machine").expect("written");
    assert_eq!((mine.seq(), mine.value()), (6, &b"after"[..]), "it goes on above what peers hold");
}

#[test]
fn a_clone_that_uses_up_all_numbers_silences_its_twin_and_breaks_nothing_else() {
    let mut world = World::new(2, 12);
    world.link(0, 1);
    let last = entry(&identity(1), 1 << 62, "machine", b"last");
    let now = world.now;
    world.hosts[1].ledger.store.insert(last, None, now);
    world.run(MINUTE);
    world.put(0, "machine", b"more");
    world.put(1, "machine", b"fine");
    world.run(10 * MINUTE);
    world.assert_equal();
    assert!(world.hosts[0].ledger.amnesia());
    assert_eq!(world.hosts[0].ledger.get(world.id(1), "machine").map(SignedEntry::value), Some(&b"fine"[..]));
}
