//! The network token is replaced.

use std::time::Duration;

use super::world::{World, token};
use crate::{
    config::{Config, RoleSetting},
    node::{Command, snapshot::Phase},
};

fn done(world: &World, hosts: &[usize], number: u32) -> bool {
    hosts.iter().all(|at| world.uses(*at) == number && world.phase(*at) == Some(Phase::Done))
}

#[test]
fn everybody_gets_the_new_token_and_nobody_loses_a_connection() {
    let mut world = World::founded(4);
    world.command(0, Command::Rotate).expect("the lead may");
    let time = world.run_until("the new token everywhere", |world| {
        assert!((1..4).all(|at| world.linked(0, at)), "a connection was lost");
        done(world, &[0, 1, 2, 3], 1)
    });
    assert!(time < Duration::from_secs(5), "{time:?}");
    let ids: Vec<_> =
        world.hosts.iter().map(|host| host.gate.tokens().next().expect("one").token_id).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && *id != token().keys().token_id));
    let mesh = |at: usize| world.hosts[at].gate.tokens().next().expect("one").mesh_id;
    assert!((0..4).all(|at| mesh(at) == token().keys().mesh_id), "nothing is numbered anew");
}

#[test]
fn only_the_lead_can_and_one_rotation_at_a_time() {
    let mut world = World::founded(3);
    let refused = world.command(1, Command::Rotate).expect_err("not the lead");
    assert!(refused.contains("lead"), "{refused}");
    world.hosts[2].keeps = false;
    world.command(0, Command::Rotate).expect("the lead may");
    world.pass(Duration::from_secs(2));
    assert_eq!(world.phase(0), Some(Phase::Spread), "one has not kept it");
    let refused = world.command(0, Command::Rotate).expect_err("one is under way");
    assert!(refused.contains("n3"), "{refused}");
    assert_eq!(world.node(0).snapshot().rotation.expect("it is under way").waits_for, [world.id(2)]);
}

#[test]
fn a_machine_that_was_off_fetches_the_new_token_with_the_old_one() {
    let mut world = World::founded(3);
    world.kill(2);
    world.pass(Duration::from_secs(1));
    for number in 1..=2 {
        world.command(0, Command::Rotate).expect("the lead may");
        world.run_until("those who are there", |world| done(world, &[0, 1], number));
    }
    let stranger = world.add_worker(token());
    world.pass(Duration::from_secs(2));
    assert!((0..2).all(|at| !world.linked(at, stranger)), "an old token lets no new machine in");
    world.boot(2, false);
    world.run_until("the machine that was off", |world| world.linked(0, 2) && done(world, &[2], 2));
}

#[test]
fn power_cuts_at_every_phase_leave_nobody_behind() {
    for steps in 0..12 {
        let mut world = World::founded(3);
        world.command(0, Command::Rotate).expect("the lead may");
        let cut = std::cell::Cell::new(0);
        world.run_until("the moment of the cut", |_| {
            cut.set(cut.get() + 1);
            cut.get() > steps
        });
        for at in 0..3 {
            world.kill(at);
        }
        for at in 0..3 {
            world.boot(at, false);
        }
        if world.phase(0).is_none() {
            // The word of the lead was not on its disk yet.
            world.command(0, Command::Rotate).unwrap_or_default();
        }
        world.run_until("all are on", |world| (1..3).all(|at| world.linked(0, at)));
        if world.phase(0).is_none() {
            world.command(0, Command::Rotate).expect("the lead may");
        }
        world.run_until("the new token everywhere", |world| done(world, &[0, 1, 2], 1));
    }
}

#[test]
fn whoever_joins_while_a_token_is_replaced_gets_it_too() {
    let mut world = World::founded(3);
    world.hosts[2].keeps = false;
    world.command(0, Command::Rotate).expect("the lead may");
    world.pass(Duration::from_secs(1));
    let late = world.add_worker(token());
    world.run_until("the late one holds it", |world| world.linked(0, late));
    world.hosts[2].keeps = true;
    world.kill(2);
    world.boot(2, false);
    world.run_until("the new token everywhere", |world| done(world, &[0, 1, 2, late], 1));
}

#[test]
fn machines_of_another_cluster_are_not_cut_off() {
    let mut world = World::founded(3);
    let other = Config {
        role: RoleSetting::Worker,
        network_id: "other".parse().expect("an id"),
        ..Config::default()
    };
    world.add(other, token(), false);
    world.run_until("it is seen", |world| {
        world.node(0).snapshot().members.iter().any(|m| m.name == "n4" && m.live)
    });
    let refused = world.command(0, Command::Rotate).expect_err("it would be cut off");
    assert!(refused.contains("n4 (other)"), "{refused}");
}
