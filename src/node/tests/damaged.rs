//! Files that came back from a power cut or a bad disk otherwise than they were written: it is told, and nothing is
//! founded anew.

use super::machines::{SECOND, World, config};
use crate::{election::ClusterId, node::snapshot::ClusterState};

/// Three machines of one cluster, all off again, with the whole ledger file of the first.
fn all_off() -> (World, ClusterId, Vec<u8>) {
    let mut world = World::new([config(), config(), config()]);
    world.run(30 * SECOND);
    let cluster = world.node(0).cluster_id().expect("they founded one");
    (0..3).for_each(|n| world.kill(n));
    let mut whole = Vec::new();
    world.tamper(0, |ledger, _| whole.clone_from(ledger));
    (world, cluster, whole)
}

/// The clusters of the first machines after they were on for a while.
fn clusters(world: &mut World, machines: usize, seconds: u32) -> Vec<Option<ClusterId>> {
    (0..machines).for_each(|n| world.start(n));
    world.run(seconds * SECOND);
    let clusters = (0..machines).map(|n| world.node(n).cluster_id()).collect();
    (0..machines).for_each(|n| world.kill(n));
    clusters
}

#[test]
fn a_ledger_cut_at_any_length_is_told_and_the_machine_stays_in_its_cluster() {
    let (mut world, cluster, whole) = all_off();
    let mut silent = 0;
    // Any stride that meets records at every place; each byte is cut at in the tests of the ledger.
    for length in (0..whole.len()).step_by(11) {
        world.tamper(0, |ledger, _| *ledger = whole[..length].to_vec());
        assert_eq!(clusters(&mut world, 1, 0), [Some(cluster)], "cut at {length}");
        silent += usize::from(world.machines[0].damage.is_empty());
    }
    // Between two records only the mark that is kept beside the identity tells that some are missing.
    assert!(silent < whole.len() / 11 / 50, "{silent} cuts are not told");
}

#[test]
fn a_flipped_bit_anywhere_is_told_and_two_of_three_do_not_found_anew() {
    let (mut world, cluster, whole) = all_off();
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        world.tamper(0, |ledger, _| *ledger = flipped);
        assert_eq!(clusters(&mut world, 2, 60), [Some(cluster); 2], "a bit of byte {at}");
        assert!(!world.machines[0].damage.is_empty(), "nothing is said of a bit of byte {at}");
    }
}

#[test]
fn without_its_certificate_too_it_learns_from_the_others_which_cluster_is_its_own() {
    let (mut world, cluster, whole) = all_off();
    for length in (0..whole.len()).step_by(whole.len() / 20) {
        world.tamper(0, |ledger, pinned| (*ledger, *pinned) = (whole[..length].to_vec(), None));
        assert_eq!(clusters(&mut world, 2, 60), [Some(cluster); 2], "cut at {length}");
    }
}

#[test]
fn machines_that_all_lost_everything_but_their_identity_found_nothing_and_say_why() {
    let (mut world, _, _) = all_off();
    (0..3).for_each(|n| world.tamper(n, |ledger, pinned| (*ledger, *pinned) = (Vec::new(), None)));
    (0..3).for_each(|n| world.start(n));
    world.run(600 * SECOND);
    for n in 0..3 {
        assert!(!world.machines[n].damage.is_empty());
        let shown = world.snapshot(n).cluster;
        assert_eq!((shown.id, shown.state), (None, ClusterState::Amnesiac), "{}", shown.message);
        assert!(shown.message.contains("lost the record of its votes"), "{}", shown.message);
    }
}
