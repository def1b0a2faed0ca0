//! Several servers: how they join, who leads, and who takes a dead one's place.

use std::time::Duration;

use super::machines::{MINUTE, SECOND, World, config, with_servers};
use crate::{
    config::RoleSetting,
    election::Role,
    node::{Command, Observed},
};

/// Seven machines of which three are servers.
fn seven() -> World {
    let mut world = World::new(vec![with_servers(2); 7]);
    world.run(2 * MINUTE);
    assert_eq!(world.servers(0).len(), 3, "{}", world.snapshot(0).cluster.message);
    world
}

fn lead(world: &World, n: usize) -> (usize, u64) {
    let cluster = world.snapshot(n).cluster;
    (world.number(cluster.lead.expect("a lead")), cluster.epoch.expect("an epoch"))
}

fn with_replacement(after: u64) -> crate::config::Config {
    let mut config = with_servers(2);
    config.auto.replace_after = Some(Duration::from_secs(after));
    config
}

#[test]
fn servers_join_one_at_a_time_and_the_next_when_the_last_one_votes() {
    let mut world = World::new(vec![with_servers(2); 5]);
    world.machines.iter_mut().for_each(|machine| machine.well = false);
    world.run(5 * MINUTE);
    let founder = world.servers(0)[0];
    assert_eq!(world.servers(0), [founder], "the founder does not vote yet");
    world.machines[founder].well = true;
    world.run(MINUTE);
    let servers = world.servers(0);
    assert_eq!((servers.len(), servers[0]), (2, founder));
    world.run(10 * MINUTE);
    assert_eq!(world.servers(0), servers, "the second one is a learner still");
    world.machines.iter_mut().for_each(|machine| machine.well = true);
    world.run(MINUTE);
    assert_eq!(world.servers(0).len(), 3);
    assert_eq!(world.with_role(0, Role::Worker).len(), 2);
    for n in 0..5 {
        let order = world.machines[n].order.as_ref().expect("a role");
        let serves = world.servers(0).contains(&n);
        assert_eq!(order.facts.server_token.is_some(), serves, "only servers may open everything");
        assert_eq!(order.facts.server_address.is_none(), n == founder, "all but the founder join it");
    }
}

#[test]
fn the_nearest_to_the_lead_become_servers_and_none_that_is_too_far() {
    let mut world = World::new(vec![with_servers(2); 6]);
    let ids: Vec<_> = (0..6).map(|n| world.id(n)).collect();
    for n in 0..6 {
        let milliseconds = |other: usize| if other < 3 { 120 } else { 20 - other as u32 };
        let measured =
            (0..6).filter(|other| *other != n).map(|other| (ids[other], SECOND / 1000 * milliseconds(other)));
        world.observe(n, Observed::RoundTrips(measured.collect()));
    }
    world.run(5 * MINUTE);
    let servers = world.servers(0);
    assert!(servers[1..].iter().all(|server| *server >= 3), "{servers:?}");
    let near: Vec<usize> = [5, 4, 3].into_iter().filter(|n| *n != servers[0]).take(2).collect();
    assert_eq!(servers[1..], near);
}

#[test]
fn a_forced_master_that_comes_when_all_places_are_taken_says_so() {
    let mut world = seven();
    let late = world.add(World::with_role_setting(RoleSetting::Master, with_servers(2)));
    world.run(2 * MINUTE);
    assert_eq!(world.servers(0).len(), 3);
    assert!(!world.servers(0).contains(&late) && world.machines[late].order.is_none());
    let problems = world.snapshot(late).problems;
    let names: Vec<String> = world.servers(0).iter().map(|server| format!("n{server}")).collect();
    let said = problems.iter().any(|problem| {
        problem.what.contains(&format!("has all its 3 servers: {}", names.join(", ")))
            && problem.fix.contains("`c3os.role`")
    });
    assert!(said, "{problems:?}");
}

#[test]
fn when_the_lead_dies_another_server_leads_in_the_next_epoch_and_goes_on() {
    let mut world = seven();
    let (old, epoch) = lead(&world, 0);
    assert_eq!((old, epoch), (world.servers(0)[0], 1), "the founder's first epoch is its lease's");
    world.kill(old);
    world.run(2 * MINUTE);
    let witness = (0..7).find(|n| *n != old).expect("six are left");
    let (new, epoch) = lead(&world, witness);
    assert!(new != old && world.servers(witness).contains(&new));
    assert_eq!(epoch, 2);
    assert_eq!(world.servers(witness).len(), 3, "nobody is replaced without being asked for");
    // It gives roles and secrets.
    let late = world.add(with_servers(2));
    world.run(MINUTE);
    let order = world.machines[late].order.as_ref().expect("a role").clone();
    assert_eq!((order.assignment.role, order.assignment.epoch), (Role::Worker, 2));
    assert!(order.facts.agent_token.is_some() && order.facts.server_token.is_none());
    assert_ne!(
        order.facts.server_address,
        world.snapshot(witness).members.iter().find(|m| m.id == world.id(old)).and_then(|m| m.ipv4),
        "it joins a server that is there"
    );
    // The old one comes back: it writes nothing, and everybody keeps its role.
    world.start(old);
    world.run(5 * MINUTE);
    assert_eq!(lead(&world, old), (new, 2));
    assert!(!world.machines[old].stopped);
    assert_eq!(world.servers(old).len(), 3);
}

#[test]
fn a_server_without_its_majority_writes_nothing() {
    let mut world = seven();
    let servers = world.servers(0);
    // The lead alone with a worker, the other servers on the other side.
    let mut sides = vec![1; 7];
    sides[servers[0]] = 0;
    let worker = world.with_role(0, Role::Worker)[0];
    sides[worker] = 0;
    world.split(&sides);
    world.run(5 * MINUTE);
    let late = world.add(with_servers(2));
    world.run(MINUTE);
    assert!(world.machines[late].order.is_none(), "no lease, no new facts");
    let refused = world.command(servers[0], Command::SetRole { node: world.id(late), role: Role::Worker });
    assert!(refused.unwrap_err().contains("lease"));
    assert_eq!(lead(&world, servers[1]).1, 2, "the others went on");
    world.split(&[0; 8]);
    world.run(2 * MINUTE);
    assert_eq!(lead(&world, servers[0]), lead(&world, servers[1]));
    assert_eq!(world.machines[late].order.as_ref().expect("a role now").assignment.epoch, 2);
}

#[test]
fn all_restart_in_any_order_and_nothing_changes() {
    let mut world = seven();
    let before: Vec<_> =
        (0..7).map(|n| world.machines[n].order.clone().expect("a role").assignment).collect();
    for first in 0..7 {
        (0..7).for_each(|n| world.kill(n));
        world.run(SECOND);
        for n in 0..7 {
            world.start((first + n) % 7);
            world.run(3 * SECOND);
        }
        world.run(2 * MINUTE);
        for (n, before) in before.iter().enumerate() {
            assert_eq!(&world.machines[n].order.as_ref().expect("a role").assignment, before, "n{n}");
        }
    }
}

#[test]
fn a_role_is_in_place_once_it_was_looked_at_in_this_run() {
    let mut world = World::new(vec![config(); 2]);
    world.run(MINUTE);
    for n in 0..2 {
        assert!(world.snapshot(n).role.in_place);
        world.kill(n);
        world.start(n);
        let role = world.snapshot(n).role;
        assert!(role.applied.is_some() && role.applied == role.assigned && !role.in_place, "{role:?}");
    }
    world.run(MINUTE);
    for n in 0..2 {
        assert!(world.snapshot(n).role.in_place);
        world.observe(n, Observed::NotApplied("its disk is full".to_owned()));
        assert!(!world.snapshot(n).role.in_place);
    }
}

#[test]
fn a_dead_server_is_replaced_only_when_asked_for_and_only_with_the_majority() {
    let mut world = World::new(vec![with_replacement(300); 7]);
    world.run(2 * MINUTE);
    let servers = world.servers(0);
    let dead = servers[0];
    world.kill(dead);
    let witness = (0..7).find(|n| *n != dead).expect("six are left");
    world.run(290 * SECOND);
    assert_eq!(world.servers(witness), servers, "not before its time");
    world.run(2 * MINUTE);
    let after = world.servers(witness);
    assert_eq!(after.len(), 3, "{after:?}");
    assert!(!after.contains(&dead) && after[..2] == servers[1..]);
    assert_eq!(world.let_go, [format!("n{dead}")], "its member left etcd first, and once");
    assert_eq!(world.with_role(witness, Role::Worker).len(), 3, "one worker was promoted");
    // It comes back with its old state: it stays stopped, says why, and is no server.
    world.start(dead);
    world.run(2 * MINUTE);
    assert!(world.machines[dead].stopped);
    let message = world.snapshot(dead).role.message.expect("why");
    assert!(message.contains("replaced") && message.contains("c3os reset"), "{message}");
    assert_eq!(world.servers(dead), after);
}

#[test]
fn two_of_three_dead_servers_are_not_replaced() {
    let mut world = World::new(vec![with_replacement(60); 7]);
    world.run(2 * MINUTE);
    let servers = world.servers(0);
    world.kill(servers[0]);
    world.kill(servers[1]);
    let witness = servers[2];
    world.run(60 * MINUTE);
    assert_eq!(world.servers(witness), servers);
    assert!(world.let_go.is_empty());
    world.start(servers[0]);
    world.run(10 * MINUTE);
    assert!(!world.servers(witness).contains(&servers[1]), "with the majority back it is done");
}

#[test]
fn a_role_is_asked_of_the_lead_and_forced_ones_win() {
    let mut configs = vec![with_servers(2); 5];
    configs[4] = World::with_role_setting(RoleSetting::Worker, with_servers(2));
    let mut world = World::new(configs);
    world.machines.iter_mut().for_each(|machine| machine.well = false);
    world.run(MINUTE);
    let founder = world.servers(0)[0];
    let other = (0..4).find(|n| *n != founder).expect("one of three");
    let (node, now) = (world.id(other), world.now);
    let refused = world.command(other, Command::SetRole { node, role: Role::Server });
    assert!(refused.unwrap_err().contains("only the lead"));
    assert_eq!(world.command(founder, Command::SetRole { node, role: Role::Server }), Ok(()));
    let why = world.node(founder).role_holds(node, Role::Server, now).unwrap_err();
    assert!(why.contains("one at a time") && why.contains(&format!("n{founder}")), "{why}");
    let forced = world.id(4);
    let refused = world.command(founder, Command::SetRole { node: forced, role: Role::Server });
    assert!(refused.unwrap_err().contains("`c3os.role`"));
    world.machines.iter_mut().for_each(|machine| machine.well = true);
    world.run(MINUTE);
    let now = world.now;
    assert_eq!(world.node(founder).role_holds(node, Role::Server, now), Ok(()));
    assert_eq!(world.servers(0)[1], other, "who was named comes first");
}

#[test]
fn two_clusters_share_a_mesh_and_nothing_else() {
    let one = || World::in_network("one", config());
    let two = || World::in_network("two", with_servers(2));
    let mut world = World::new([one(), two(), one(), two(), one(), two()]);
    world.run(2 * MINUTE);
    let ids: Vec<_> = (0..6).map(|n| world.snapshot(n).cluster.id.expect("founded")).collect();
    assert!(ids[0] == ids[2] && ids[2] == ids[4] && ids[1] == ids[3] && ids[3] == ids[5] && ids[0] != ids[1]);
    assert_eq!(world.servers(0).len(), 1);
    assert_eq!(world.servers(1).len(), 3);
    for (n, id) in ids.iter().enumerate() {
        let order = world.machines[n].order.clone().expect("a role");
        assert_eq!(order.assignment.cluster_id.to_string(), *id);
        // Nobody's part of the ledger holds a box for a node of the other cluster.
        for entry in world.node(n).ledger().with_prefix("secret/") {
            let about =
                entry.key().as_str().rsplit('/').next().and_then(|id| id.parse().ok()).expect("a node");
            assert_eq!(world.number(about) % 2, world.number(entry.author()) % 2);
        }
    }
}
