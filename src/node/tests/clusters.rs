//! Clusters that meet, and clusters that are lost.

use super::machines::{MINUTE, SECOND, World, config};
use crate::{
    config::{Config, RoleSetting},
    election::{ClusterId, Role},
    node::{Command, Observed, snapshot::ClusterState},
};

/// Two pairs that founded on their own, and met.
fn two_clusters(config: Config) -> World {
    let mut world = World::new(vec![config; 4]);
    world.split(&[0, 0, 1, 1]);
    world.run(MINUTE);
    assert_ne!(world.node(0).cluster_id(), world.node(2).cluster_id());
    world.split(&[0; 4]);
    world.run(MINUTE);
    world
}

fn cluster(world: &World, n: usize) -> ClusterId {
    world.node(n).cluster_id().expect("it belongs to one")
}

/// The server and the worker among two machines.
fn pair(world: &World, pair: [usize; 2]) -> (usize, usize) {
    let server = world.servers(pair[0])[0];
    (server, if pair[0] == server { pair[1] } else { pair[0] })
}

#[test]
fn every_machine_shows_the_conflict_and_stays_where_it_is() {
    let mut world = two_clusters(config());
    let before: Vec<_> = (0..4).map(|n| cluster(&world, n)).collect();
    let laptop = world.add_visitor();
    world.run(10 * MINUTE);
    for n in 0..4 {
        let snapshot = world.snapshot(n);
        let other = before[if n < 2 { 2 } else { 0 }];
        assert_eq!(snapshot.cluster.state, ClusterState::Conflict);
        assert_eq!(cluster(&world, n), before[n]);
        assert!(snapshot.cluster.conflicts[0].contains(&other.to_string()));
        assert!(snapshot.problems.iter().any(|problem| problem.what.contains("conflict")), "{n}");
        let order = world.machines[n].order.as_ref().expect("its role stands");
        assert!(order.assignment.cluster_id == before[n] && !world.machines[n].stopped);
    }
    let seen = world.snapshot(laptop);
    assert_eq!((seen.cluster.state, seen.cluster.conflicts.len()), (ClusterState::Conflict, 2));
    assert!(seen.problems.iter().any(|problem| problem.what.contains("conflict")));
}

#[test]
fn who_only_looks_on_says_which_cluster_it_sees() {
    let none = World::with_role_setting(RoleSetting::None, config());
    let mut world = World::new([none, config(), config()]);
    let visitor = world.add_visitor();
    let said = |world: &World, n: usize| world.snapshot(n).cluster.message;
    assert!(said(&world, visitor).ends_with("no cluster is founded yet"), "{}", said(&world, visitor));
    world.run(MINUTE);
    let founder = world.servers(1)[0];
    let seen = format!("; cluster {} founded by n{founder}", cluster(&world, 1));
    for n in [0, visitor] {
        assert!(said(&world, n).ends_with(&seen), "{}", said(&world, n));
        assert_eq!(said(&world, n).contains("c3os.role"), n == 0);
    }
}

#[test]
fn a_worker_goes_to_the_other_cluster_when_it_is_told_to() {
    let mut world = two_clusters(config());
    let ((_, worker), (server, _)) = (pair(&world, [0, 1]), pair(&world, [2, 3]));
    let (left, other) = (cluster(&world, worker), cluster(&world, server));
    let nowhere = ClusterId::from_bytes([9; 16]);
    assert!(world.command(worker, Command::Join { cluster_id: nowhere }).unwrap_err().contains("no member"));
    assert!(world.command(worker, Command::Join { cluster_id: left }).unwrap_err().contains("already"));
    world.command(worker, Command::Join { cluster_id: other }).expect("a worker is free to go");
    world.run(MINUTE);
    assert_eq!(cluster(&world, worker), other);
    let order = world.machines[worker].order.as_ref().expect("a role there");
    assert_eq!((order.assignment.cluster_id, order.assignment.role), (other, Role::Worker));
    // It outlives a restart, and nothing is left twice.
    world.kill(worker);
    world.start(worker);
    world.run(MINUTE);
    assert_eq!(cluster(&world, worker), other);
    assert_eq!(world.machines[worker].order.as_ref().expect("the same").leaves, None);
}

#[test]
fn a_server_goes_only_while_its_cluster_runs_no_workload() {
    let mut world = two_clusters(config());
    let ((server, _), (other, _)) = (pair(&world, [0, 1]), pair(&world, [2, 3]));
    let to = Command::Join { cluster_id: cluster(&world, other) };
    let refused = world.command(server, to.clone());
    assert!(refused.unwrap_err().contains("workload"));
    world.observe(server, Observed::Idle(true));
    world.command(server, to).expect("it runs nothing");
    world.run(MINUTE);
    assert_eq!(cluster(&world, server), cluster(&world, other));
    let order = world.machines[server].order.as_ref().expect("a role there");
    assert_eq!(order.assignment.role, Role::Worker);
}

#[test]
fn a_configuration_that_names_the_cluster_and_says_merge_is_a_word_too() {
    let mut world = two_clusters(config());
    let ((_, worker), (server, _)) = (pair(&world, [0, 1]), pair(&world, [2, 3]));
    let (left, other) = (cluster(&world, worker), cluster(&world, server));
    let mut named = Config { join: Some(other.to_string()), ..config() };
    world.restart_with(worker, named.clone());
    world.run(MINUTE);
    assert_eq!(cluster(&world, worker), left, "`join` alone moves nobody");
    named.auto.merge = true;
    world.restart_with(worker, named);
    world.run(MINUTE);
    assert_eq!(cluster(&world, worker), other);
}

/// Four machines whose only server is gone for good; the numbers of the server and of the others.
fn lost() -> (World, usize, Vec<usize>) {
    let mut world = World::new(vec![config(); 4]);
    world.run(MINUTE);
    let server = world.servers(0)[0];
    let others: Vec<usize> = (0..4).filter(|n| *n != server).collect();
    world.kill(server);
    world.run(SECOND);
    (world, server, others)
}

#[test]
fn a_lost_control_plane_is_never_replaced_by_itself() {
    let (mut world, _, others) = lost();
    let before = cluster(&world, others[0]);
    world.run(120 * MINUTE);
    for n in others {
        assert_eq!(cluster(&world, n), before);
        assert_eq!(world.machines[n].order.as_ref().expect("its role").assignment.role, Role::Worker);
    }
}

#[test]
fn an_operators_word_founds_the_next_generation_once_the_servers_were_silent() {
    let (mut world, server, others) = lost();
    let old = cluster(&world, others[0]);
    world.command(others[1], Command::Refound).expect("it may say so");
    world.run(9 * MINUTE);
    assert!(others.iter().all(|n| cluster(&world, *n) == old), "ten minutes are not over");
    let message = world.snapshot(others[1]).cluster.message;
    assert!(message.contains("ten minutes"), "{message}");
    world.run(3 * MINUTE);
    let new = cluster(&world, others[1]);
    assert_ne!(new, old);
    for n in &others {
        let snapshot = world.snapshot(*n);
        assert_eq!((cluster(&world, *n), snapshot.cluster.generation), (new, Some(2)));
        assert_eq!(snapshot.cluster.state, ClusterState::Founded, "{}", snapshot.cluster.message);
        assert_eq!(world.servers(*n), [others[1]], "whoever was told to is the server");
    }
    // Who comes later joins the heir, though the old certificate is still about.
    let late = world.add(config());
    world.run(MINUTE);
    assert_eq!(cluster(&world, late), new);
    // The old server comes back: conflict, stopped, nothing taken away.
    world.start(server);
    world.run(MINUTE);
    assert!(world.machines[server].stopped && world.machines[server].order.is_none());
    let snapshot = world.snapshot(server);
    assert_eq!((cluster(&world, server), snapshot.cluster.state), (old, ClusterState::Conflict));
    assert!(snapshot.cluster.message.contains(&new.to_string()), "{}", snapshot.cluster.message);
    assert!(others.iter().all(|n| cluster(&world, *n) == new));
}

#[test]
fn nothing_is_founded_anew_while_a_server_is_heard() {
    let mut world = World::new(vec![config(); 3]);
    world.run(MINUTE);
    let server = world.servers(0)[0];
    let others: Vec<usize> = (0..3).filter(|n| *n != server).collect();
    let old = cluster(&world, 0);
    assert!(world.command(server, Command::Refound).unwrap_err().contains("is a server"));
    world.command(others[0], Command::Refound).expect("it may say so");
    world.run(60 * MINUTE);
    assert!((0..3).all(|n| cluster(&world, n) == old));
    let message = world.snapshot(others[0]).cluster.message;
    assert!(message.contains(&format!("n{server}")), "{message}");
    // It goes, and comes back within ten minutes: the time begins anew.
    world.kill(server);
    world.run(9 * MINUTE);
    world.start(server);
    world.run(9 * MINUTE);
    assert!((0..3).all(|n| cluster(&world, n) == old));
}

#[test]
fn who_was_away_follows_the_heir_after_its_own_ten_minutes() {
    let (mut world, server, others) = lost();
    world.kill(others[2]);
    world.command(others[0], Command::Refound).expect("it may say so");
    world.run(15 * MINUTE);
    let new = cluster(&world, others[0]);
    world.start(others[2]);
    world.run(9 * MINUTE);
    assert_ne!(cluster(&world, others[2]), new);
    world.run(2 * MINUTE);
    assert_eq!(cluster(&world, others[2]), new);
    assert!(world.machines[server].order.is_some(), "nothing was taken from the dead one");
}
