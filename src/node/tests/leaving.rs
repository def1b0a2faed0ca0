//! Machines that leave, or are made to.

use std::time::Duration;

use super::world::{World, token};
use crate::{
    config::Config,
    election::Role,
    node::{Command, snapshot::Phase},
};

#[test]
fn a_banned_machine_is_out_everywhere_and_a_new_identity_does_not_help_it() {
    let mut world = World::founded(4);
    let banned = world.id(3);
    let before = world.hosts[1].agent_tokens.clone();
    world.command(0, Command::Ban { node: banned, keep_token: false }).expect("the lead may");
    let time = world.run_until("it is out and the token is new", |world| {
        (0..3).all(|at| !world.linked(at, 3) && world.uses(at) == 1 && world.phase(at) == Some(Phase::Done))
    });
    assert!(time < Duration::from_secs(10), "{time:?}");
    // Its disk is kept, with everything that it knew.
    let again = world.add_worker(token());
    world.kill(3);
    world.boot(3, false);
    world.pass(Duration::from_secs(20));
    for outsider in [3, again] {
        assert!((0..3).all(|at| !world.linked(at, outsider)), "host {outsider} got in");
    }
    for at in 0..3 {
        assert_eq!(world.roles(at).len(), 3);
        assert!(world.hosts[at].gate.is_banned(&banned));
    }
    let after = &world.hosts[1].agent_tokens;
    assert!(after.len() > before.len(), "the agent token is new");
    assert!(!world.hosts[3].agent_tokens.is_superset(after), "and the banned machine does not know it");
}

#[test]
fn a_new_identity_is_turned_away_while_the_token_is_being_replaced() {
    let mut world = World::founded(3);
    world.hosts[1].keeps = false;
    world.command(0, Command::Ban { node: world.id(2), keep_token: false }).expect("the lead may");
    world.run_until("the ban is known", |world| (0..2).all(|at| !world.linked(at, 2)));
    assert_eq!(world.phase(0), Some(Phase::Spread));
    let again = world.add_worker(token());
    world.pass(Duration::from_secs(5));
    assert_eq!(world.phase(0), Some(Phase::Spread), "still both tokens are good");
    assert!((0..2).all(|at| !world.linked(at, again)));
    assert!(world.linked(0, 1), "members go on");
}

#[test]
fn a_visitor_of_before_the_ban_gets_no_new_token() {
    let mut world = World::founded(3);
    let visitor = world.add(Config::default(), token(), true);
    world.run_until("the visitor is there", |world| world.linked(0, visitor));
    world.command(0, Command::Ban { node: world.id(2), keep_token: false }).expect("the lead may");
    world.run_until("the new token", |world| (0..2).all(|at| world.uses(at) == 1));
    world.run_until("the visitor is out", |world| (0..2).all(|at| !world.linked(at, visitor)));
    assert_eq!(world.uses(visitor), 0);
}

#[test]
fn with_the_token_kept_only_the_one_identity_is_out() {
    let mut world = World::founded(3);
    world.command(0, Command::Ban { node: world.id(2), keep_token: true }).expect("the lead may");
    world.run_until("it is out", |world| (0..2).all(|at| !world.linked(at, 2)));
    assert_eq!(world.uses(0), 0);
    let again = world.add_worker(token());
    world.run_until("another identity gets in", |world| world.linked(0, again));
}

#[test]
fn a_machine_that_was_off_during_a_ban_comes_back() {
    let mut world = World::founded(4);
    world.kill(2);
    world.pass(Duration::from_secs(1));
    world.command(0, Command::Ban { node: world.id(3), keep_token: false }).expect("the lead may");
    world.run_until("the new token", |world| (0..2).all(|at| world.phase(at) == Some(Phase::Done)));
    world.boot(2, false);
    world.run_until("it is back", |world| world.linked(0, 2) && world.uses(2) == 1);
    world.run_until("it knows of the ban", |world| !world.linked(2, 3) && world.roles(2).len() == 3);
}

#[test]
fn a_node_that_is_gone_is_removed_and_comes_back_as_a_new_one() {
    let mut world = World::founded(3);
    let gone = world.id(2);
    let refused = world.command(0, Command::Remove { node: gone }).expect_err("it is there");
    assert!(refused.contains("running"), "{refused}");
    world.kill(2);
    world.pass(Duration::from_secs(1));
    world.command(0, Command::Remove { node: gone }).expect("the lead may");
    world.run_until("it is forgotten", |world| (0..2).all(|at| world.roles(at).len() == 2));
    world.boot(2, false);
    world.run_until("it is a worker again", |world| world.roles(0).get("n3") == Some(&Some(Role::Worker)));
}

#[test]
fn the_lead_a_server_and_nobody_are_not_dropped() {
    let mut world = World::founded(3);
    let lead = world.id(0);
    let refused = world.command(0, Command::Ban { node: lead, keep_token: false }).expect_err("the lead");
    assert!(refused.contains("leads"), "{refused}");
    let nobody = crate::identity::NodeId::from_bytes([77; 32]);
    let refused = world.command(0, Command::Remove { node: nobody }).expect_err("nobody");
    assert!(refused.contains("no member"), "{refused}");
    let refused = world.command(1, Command::Ban { node: lead, keep_token: true }).expect_err("not the lead");
    assert!(refused.contains("only the lead"), "{refused}");
}

#[test]
fn a_worker_never_has_the_server_token() {
    let world = World::founded(3);
    assert_eq!(world.hosts[0].server_tokens.len(), 1);
    assert!(world.hosts[1..].iter().all(|host| host.server_tokens.is_empty()));
    assert!(world.hosts.iter().all(|host| host.agent_tokens == world.hosts[0].agent_tokens));
}

#[test]
fn a_visitor_that_stays_for_minutes_goes_on_without_a_pause_for_breath() {
    let mut world = World::founded(3);
    let visitor = world.add(Config::default(), token(), true);
    world.run_until("the visitor is there", |world| world.linked(0, visitor));
    world.pass(Duration::from_secs(100));
    world.pass(Duration::from_secs(100));
    assert!(world.node(0).snapshot().members.iter().any(|member| member.name == "n4" && member.live));
}
