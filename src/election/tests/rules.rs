//! Who founds, when, and what the others do and say.

use std::time::Duration;

use super::world::{World, role, settings};
use crate::{
    config::RoleSetting,
    election::{Conflict, Datastore, FoundingSettings, FoundingStatus, Guarantee},
};

const SECOND: Duration = Duration::from_secs(1);

fn text(world: &World, n: usize) -> String {
    world.status(n).to_string()
}

fn only_pinned(world: &World) -> bool {
    world.founded.len() == 1
        && world
            .machines
            .iter()
            .all(|m| m.pinned.as_ref().is_some_and(|c| world.founded.contains_key(&c.cluster().cluster_id)))
}

#[test]
fn three_machines_found_one_cluster_as_soon_as_the_view_is_still() {
    let mut world = World::new(vec![settings(), settings(), settings()]);
    world.run(SECOND);
    assert!(world.founded.is_empty(), "the view was not still for two seconds");
    world.run(2 * SECOND);
    assert!(only_pinned(&world));
    let certificate = world.founded.values().next().expect("one");
    assert_eq!(certificate.cluster().addresses.len(), 3);
    assert_eq!(certificate.cluster().datastore, Datastore::Sqlite);
    assert_eq!(certificate.proposer(), certificate.cluster().founder);
    assert!(text(&world, 0).starts_with("cluster "), "{}", text(&world, 0));
    let ballots: Vec<_> = world.ballots.keys().collect();
    assert_eq!(ballots.len(), 1, "one proposer, one ballot: {ballots:?}");
}

#[test]
fn a_machine_that_comes_later_joins_what_was_founded() {
    let mut world = World::new(vec![settings(); 4]);
    world.machines[3].up = false;
    world.run(5 * SECOND);
    world.start_again(3);
    world.run(SECOND);
    assert!(only_pinned(&world));
}

/// It may hold a ballot that was given up, and not yet the certificate that stands in its place.
#[test]
fn nobody_votes_before_ledgers_were_exchanged_with_every_peer() {
    let mut world = World::new(vec![settings(); 2]);
    world.machines[1].exchanged = false;
    world.run(60 * SECOND);
    assert!(world.founded.is_empty(), "both votes are needed, and one may not be given yet");
    world.machines[1].exchanged = true;
    world.run(60 * SECOND);
    assert!(only_pinned(&world));
}

#[test]
fn a_machine_alone_waits_and_says_for_how_many() {
    let mut world = World::new(vec![FoundingSettings { minimum_nodes: Some(3), ..settings() }]);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty());
    assert_eq!(text(&world, 0), "waits for 2 more nodes: 1 of 3 are here");
}

#[test]
fn it_waits_for_a_majority_of_the_voters_it_knows_and_names_who_is_away_for_ten_minutes() {
    let mut world = World::new(vec![settings(); 5]);
    world.run(SECOND);
    for n in 2..5 {
        world.crash(n, false);
    }
    world.run(590 * SECOND);
    assert!(world.founded.is_empty(), "two of five are no majority");
    assert!(
        text(&world, 0).contains("waits for 1 more node: 2 of 3 are here; away: m"),
        "{}",
        text(&world, 0)
    );
    world.run(30 * SECOND);
    assert_eq!(world.founded.len(), 1, "the silent ones do not count any more");
}

#[test]
fn without_a_minimum_discovery_has_to_be_exhausted_first() {
    let mut world = World::new(vec![role(RoleSetting::Auto); 3]);
    world.machines.iter_mut().for_each(|machine| machine.exhausted = false);
    world.run(60 * SECOND);
    assert_eq!(world.status(0), &FoundingStatus::WaitingForDiscovery);
    world.machines.iter_mut().for_each(|machine| machine.exhausted = true);
    world.run(4 * SECOND);
    assert!(only_pinned(&world));
}

#[test]
fn the_candidate_that_hangs_is_passed_over() {
    let mut world = World::new(vec![settings(); 3]);
    world.run(SECOND);
    // Whoever would propose is there, but says nothing any more.
    let hung =
        (0..3).find(|n| matches!(world.status(*n), FoundingStatus::Settling { .. })).expect("a candidate");
    world.machines[hung].settings.role = RoleSetting::Auto;
    world.side[hung] = 1;
    world.run(60 * SECOND);
    assert_eq!(world.founded.len(), 1);
    assert_ne!(world.founded.values().next().expect("one").cluster().founder, world.machines[hung].id);
    world.side[hung] = 0;
    world.run(10 * SECOND);
    assert!(only_pinned(&world));
}

#[test]
fn a_forced_master_is_the_only_proposer() {
    for forced in 0..3 {
        let mut all = vec![role(RoleSetting::Auto); 3];
        all[forced] = role(RoleSetting::Master);
        let mut world = World::new(all);
        world.run(10 * SECOND);
        assert!(only_pinned(&world));
        let cluster = world.founded.values().next().expect("one").cluster();
        assert_eq!((cluster.founder, cluster.minimum_nodes), (world.machines[forced].id, 2));
    }
}

#[test]
fn a_forced_worker_votes_and_never_proposes() {
    let mut world =
        World::new(vec![role(RoleSetting::Worker), role(RoleSetting::Worker), role(RoleSetting::Auto)]);
    world.run(10 * SECOND);
    assert!(only_pinned(&world));
    assert_eq!(world.founded.values().next().expect("one").cluster().founder, world.machines[2].id);
    let mut workers = World::new(vec![role(RoleSetting::Worker); 3]);
    workers.run(3600 * SECOND);
    assert!(workers.founded.is_empty() && workers.ballots.is_empty());
}

#[test]
fn observers_have_no_vote() {
    let mut world = World::new(vec![settings(), role(RoleSetting::None), role(RoleSetting::None)]);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty());
    assert_eq!(world.status(1), &FoundingStatus::Observing);
    assert_eq!(text(&world, 0), "waits for 1 more node: 1 of 2 are here");
}

#[test]
fn a_forced_master_founds_alone_when_nobody_else_was_found() {
    let mut world = World::new(vec![role(RoleSetting::Master)]);
    world.machines[0].exhausted = false;
    world.run(600 * SECOND);
    assert!(world.founded.is_empty(), "discovery was not exhausted");
    world.machines[0].exhausted = true;
    world.run(11 * SECOND);
    assert!(only_pinned(&world));
    assert_eq!(world.founded.values().next().expect("one").cluster().minimum_nodes, 1);
    // With a minimum it does not.
    let mut world =
        World::new(vec![FoundingSettings { minimum_nodes: Some(2), ..role(RoleSetting::Master) }]);
    world.run(600 * SECOND);
    assert!(world.founded.is_empty());
}

#[test]
fn a_forced_master_that_once_saw_another_never_founds_alone() {
    let mut world = World::new(vec![role(RoleSetting::Master), role(RoleSetting::Worker)]);
    world.run(SECOND);
    world.crash(1, false);
    world.run(7200 * SECOND);
    assert!(world.founded.is_empty(), "the other may have voted elsewhere");
    // Also after a restart: the ledger remembers.
    world.crash(0, false);
    world.start_again(0);
    world.run(7200 * SECOND);
    assert!(world.founded.is_empty());
    world.start_again(1);
    world.run(20 * SECOND);
    assert!(only_pinned(&world));
}

/// The file with `role: master` on three machines, switched on one after the other.
#[test]
fn role_master_on_all_machines_never_makes_two_clusters_and_the_message_names_the_key() {
    for gaps in [[0, 0], [0, 60], [1, 1], [3, 9], [5, 30], [9, 60], [10, 1], [11, 0], [30, 30], [60, 60]] {
        let mut world = World::new(vec![role(RoleSetting::Master); 3]);
        world.machines[1].up = false;
        world.machines[2].up = false;
        for (n, gap) in gaps.into_iter().enumerate() {
            world.run(gap * SECOND);
            world.machines[n + 1].up = true;
        }
        world.run(600 * SECOND);
        assert!(world.founded.len() <= 1, "{gaps:?}");
        for n in 0..3 {
            let is_founder = world.machines[n].pinned.is_some();
            let text = text(&world, n);
            assert!(is_founder || text.contains("`c3os.role"), "{gaps:?}: {text}");
            assert!(is_founder || text.contains("m0 ("), "{gaps:?}: {text}");
            assert!(!is_founder || n == 0, "{gaps:?}: only the first one can be alone");
        }
        // Once the file is mended on the later ones, there is one cluster.
        world.machines[1].settings.role = RoleSetting::Auto;
        world.machines[2].settings.role = RoleSetting::Auto;
        for n in [1, 2] {
            world.crash(n, false);
            world.start_again(n);
        }
        world.run(60 * SECOND);
        assert!(only_pinned(&world), "{gaps:?}: {}", text(&world, 1));
    }
}

#[test]
fn two_forced_masters_name_each_other_and_everybody_names_both() {
    let mut world =
        World::new(vec![role(RoleSetting::Master), role(RoleSetting::Master), role(RoleSetting::Auto)]);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty() && world.ballots.is_empty());
    for n in 0..3 {
        let text = text(&world, n);
        assert!(
            text.contains("m0 (") && text.contains("m1 (") && text.contains("`c3os.role: master`"),
            "{text}"
        );
    }
}

#[test]
fn several_forced_masters_are_welcome_where_several_servers_are_wanted() {
    let master = FoundingSettings { additional_servers: 2, ..role(RoleSetting::Master) };
    let mut world = World::new(vec![master; 3]);
    world.run(20 * SECOND);
    assert!(only_pinned(&world));
    let cluster = world.founded.values().next().expect("one").cluster();
    assert_eq!((cluster.servers, cluster.datastore), (3, Datastore::Etcd));
}

#[test]
fn voters_with_another_minimum_do_not_count_and_are_named() {
    let three = FoundingSettings { minimum_nodes: Some(3), ..settings() };
    let mut world = World::new(vec![settings(), three.clone(), three]);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty());
    let text = text(&world, 0);
    assert!(text.contains("`c3os.minimum_nodes` other than 2") && text.contains("m1 ("), "{text}");
}

#[test]
fn a_lone_cluster_is_not_applied_where_more_votes_were_asked_for() {
    let three = FoundingSettings { minimum_nodes: Some(3), ..role(RoleSetting::Auto) };
    let mut world = World::new(vec![role(RoleSetting::Master), three]);
    world.machines[1].up = false;
    world.run(20 * SECOND);
    world.machines[1].up = true;
    world.run(20 * SECOND);
    assert!(world.machines[0].pinned.is_some() && world.machines[1].pinned.is_none());
    assert!(matches!(world.status(1), FoundingStatus::Conflict(Conflict::TooFewVotes { wanted: 3, .. })));
    assert!(text(&world, 1).contains("`c3os.minimum_nodes`"), "{}", text(&world, 1));
}

#[test]
fn who_only_joins_never_votes_and_takes_the_cluster_it_was_told() {
    let mut world = World::new(vec![settings(); 3]);
    world.machines[2].up = false;
    world.run(5 * SECOND);
    let wanted = *world.founded.keys().next().expect("one");
    let join = FoundingSettings { join: Some(wanted), ..settings() };
    let other = crate::election::ClusterId::from_bytes([9; 16]);
    world.machines[2].settings = join;
    world.start_again(2);
    world.run(SECOND);
    assert!(only_pinned(&world));

    let elsewhere = FoundingSettings { join: Some(other), ..settings() };
    let mut world = World::new(vec![elsewhere.clone(), elsewhere, settings()]);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty());
    assert!(text(&world, 0).contains(&other.to_string()));
}

#[test]
fn who_said_that_it_abstains_keeps_to_it() {
    let mut world = World::new(vec![settings(); 2]);
    world.machines[0].abstains = true;
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty() && world.ballots.is_empty());
    assert_eq!(world.status(0), &FoundingStatus::Frozen);
}

#[test]
fn an_amnesiac_never_votes_says_so_and_takes_what_the_others_found() {
    let mut world = World::new(vec![settings(); 2]);
    world.forget(1);
    world.run(3600 * SECOND);
    assert!(world.founded.is_empty(), "two of two votes are needed");
    assert_eq!(world.status(1), &FoundingStatus::Amnesiac);
    // It does not remember by being started again.
    world.machines[1].amnesiac = false;
    world.crash(1, false);
    world.start_again(1);
    world.run(60 * SECOND);
    assert_eq!(world.status(1), &FoundingStatus::Amnesiac);

    let mut world = World::new(vec![settings(); 3]);
    world.forget(1);
    world.run(60 * SECOND);
    assert!(only_pinned(&world));
    assert!(!world.founded.values().next().expect("one").voters().contains(&world.machines[1].id));
}

#[test]
fn of_two_clusters_the_pinned_one_stands_and_the_other_is_shown() {
    let mut world = World::new(vec![settings(); 5]);
    world.side = vec![0, 0, 1, 1, 2];
    world.run(10 * SECOND);
    assert_eq!(world.founded.len(), 2, "m = 2 of 5: the guarantee was configured away");
    let before: Vec<_> =
        world.machines[..4].iter().map(|m| m.pinned.as_ref().map(|c| c.cluster().cluster_id)).collect();
    world.side = vec![0; 5];
    world.run(60 * SECOND);
    for (n, before) in before.iter().enumerate() {
        assert_eq!(world.machines[n].pinned.as_ref().map(|c| c.cluster().cluster_id), *before);
        assert!(text(&world, n).contains("conflict"), "{}", text(&world, n));
    }
    // Who saw both at once picks none.
    assert!(world.machines[4].pinned.is_none());
    assert!(
        matches!(world.status(4), FoundingStatus::Conflict(Conflict::Several(clusters)) if clusters.len() == 2)
    );
}

#[test]
fn a_founding_that_was_cut_off_is_finished_with_its_own_value() {
    // All stop when the votes are on their way; the proposer never comes back.
    let mut world = World::new(vec![settings(); 3]);
    world.run(Duration::from_millis(1900));
    world.now += SECOND;
    let mut named = None;
    for _ in 0..20 {
        for n in 0..3 {
            world.decide(n);
            world.write(n);
        }
        named = world.ballots.iter().find_map(|((id, _), value)| value.map(|value| (*id, value)));
        if named.is_some() {
            break;
        }
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            world.deliver(from, from, to, None);
        }
    }
    let (proposer, value) = named.expect("a value was named");
    let proposer = world.machines.iter().position(|m| m.id == proposer).expect("one of them");
    let voter = (proposer + 1) % 3;
    world.deliver(proposer, proposer, voter, None);
    world.decide(voter);
    world.write(voter);
    world.crash(proposer, false);
    world.run(60 * SECOND);
    assert_eq!(world.founded.keys().copied().collect::<Vec<_>>(), [value]);
    assert_eq!(world.pinned().len(), 1);
    world.start_again(proposer);
    world.run(60 * SECOND);
    assert!(only_pinned(&world));
}

#[test]
fn the_guarantee_says_what_it_rests_on() {
    let holds = Guarantee { minimum_nodes: 2, ids: 3 };
    assert!(holds.holds() && holds.to_string().contains("fewer than 4 machines"), "{holds}");
    let broken = Guarantee { minimum_nodes: 2, ids: 4 };
    assert!(!broken.holds() && broken.to_string().contains("3 on all of them"), "{broken}");
}
