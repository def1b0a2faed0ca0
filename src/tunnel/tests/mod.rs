//! Whole tunnels against each other.

mod paths;
mod super_packets;
mod world;

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use self::world::{Node, World, packet};
use super::*;
use crate::identity::NodeId;

const MS: Duration = Duration::from_millis(1);

#[test]
fn the_first_packet_makes_the_session_and_gets_through() {
    let mut world = World::new(2);
    world.send(0, 1, b"first");
    world.run(100 * MS);
    assert_eq!(world.delivered(1), [b"first"]);
    world.send(1, 0, b"back");
    world.run(100 * MS);
    assert_eq!(world.delivered(0), [b"back"]);
    assert_eq!(world.handshakes_by_stream, 1);
}

#[test]
fn sixteen_packets_wait_and_the_oldest_go_first() {
    let mut world = World::new(2);
    for i in 0..20 {
        world.send(0, 1, &[i]);
    }
    world.run(100 * MS);
    assert_eq!(world.delivered(1), (4..20).map(|i| vec![i]).collect::<Vec<_>>());
    assert_eq!(world.nodes[0].counters.get(DropReason::NoSession), 4);
}

#[test]
fn two_that_begin_at_once_end_with_one_session_and_lose_nothing() {
    let mut world = World::new(2);
    world.send(0, 1, b"to b");
    world.send(1, 0, b"to a");
    assert_eq!(world.streams.len(), 2);
    world.run(2000 * MS);
    assert_eq!((world.delivered(0), world.delivered(1)), (vec![b"to a".to_vec()], vec![b"to b".to_vec()]));
    assert_eq!(world.nodes[0].table.sessions.len(), 1);
    assert_eq!(world.nodes[1].table.sessions.len(), 1);
}

#[test]
fn an_idle_session_sends_nothing_and_needs_no_handshake_to_go_on() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(60_000 * MS);
    let before = world.datagrams;
    world.run(50 * 60_000 * MS);
    assert_eq!(world.datagrams, before);
    world.send(0, 1, b"y");
    world.run(100 * MS);
    assert_eq!(world.delivered(1), [b"x", b"y"]);
}

#[test]
fn a_session_in_use_is_replaced_after_two_minutes_without_the_control_plane_and_without_loss() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(100 * MS);
    world.nodes[0].streams_work = false;
    let first = world.nodes[0].table.peers[0].sending.as_ref().expect("connected").session.local();
    for i in 0..1500u32 {
        world.send(0, 1, &i.to_be_bytes());
        world.send(1, 0, &i.to_be_bytes());
        world.run(100 * MS);
    }
    assert_eq!(world.delivered(1).len(), 1501);
    assert_eq!(world.delivered(0).len(), 1500);
    let second = world.nodes[0].table.peers[0].sending.as_ref().expect("connected").session.local();
    assert_ne!(first, second);
    assert_eq!(world.handshakes_by_stream, 1);
    world.run(61_000 * MS);
    assert_eq!(world.nodes[0].table.sessions.len(), 1, "the old key is forgotten");
    assert_eq!(world.nodes[1].table.sessions.len(), 1, "the old key is forgotten");
}

#[test]
fn a_new_session_is_confirmed_again_until_the_peer_has_it() {
    let mut world = World::new(2);
    let local = |node: &Node| node.table.peers[0].sending.as_ref().expect("connected").session.local();
    world.send(0, 1, b"x");
    world.run(100 * MS);
    let first = local(&world.nodes[0]);
    world.run(110_000 * MS);
    world.send(0, 1, b"y");
    world.run(15_000 * MS);
    assert_eq!(local(&world.nodes[0]), first, "nothing was sent since it is due");
    world.send(0, 1, b"z");
    while local(&world.nodes[0]) == first {
        let (from, to, datagram) = world.wire.pop_front().expect("a handshake");
        world.receive(from, to, datagram);
        world.collect();
    }
    // What would confirm it gets lost, and what is sent a second later.
    world.deaf.push(world.nodes[1].address);
    world.run(1500 * MS);
    world.deaf.clear();
    world.run(15_000 * MS);
    assert_eq!(world.handshakes_by_stream, 1);
    world.delivered(1);
    world.send(0, 1, b"at once");
    world.run(10 * MS);
    assert_eq!(world.delivered(1), [b"at once"]);
}

#[test]
fn after_a_restart_either_end_gets_traffic_going_again() {
    for sender in [0, 1] {
        let mut world = World::new(2);
        world.send(0, 1, b"x");
        world.run(20_000 * MS);
        world.delivered(1);
        world.restart(1);
        // What the control plane reports to both when the connection is there again.
        let (a, b) = (world.nodes[0].id, world.nodes[1].id);
        let now = world.now;
        world.nodes[0].tunnel.handle_connected(b, now);
        world.nodes[1].tunnel.handle_connected(a, now);
        world.run(1000 * MS);
        world.send(sender, 1 - sender, b"again");
        world.run(1000 * MS);
        assert_eq!(world.delivered(1 - sender), [b"again"], "sent by {sender}");
    }
}

#[test]
fn a_peer_that_lost_the_session_unnoticed_is_found_out_by_its_silence() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    world.delivered(1);
    world.restart(1);
    for i in 0..100 {
        world.send(0, 1, &[i]);
        world.run(100 * MS);
    }
    assert_eq!(world.delivered(1).last(), Some(&vec![99]));
    assert!(world.nodes[1].counters.get(DropReason::UnknownSession) > 0);
}

#[test]
fn a_peer_that_stops_says_so_and_the_next_packet_makes_a_new_session() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    world.nodes[1].tunnel.handle_stop();
    world.run(1000 * MS);
    assert!(world.nodes[0].table.sessions.is_empty());
    world.restart(1);
    world.send(0, 1, b"y");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"y"]);
}

#[test]
fn a_peer_that_nobody_can_reach_costs_a_bounded_number_of_datagrams() {
    let mut world = World::new(2);
    world.dead = vec![world.nodes[1].address];
    world.send(0, 1, b"x");
    world.run(600_000 * MS);
    assert!(world.datagrams < 20, "{}", world.datagrams);
    assert!(world.nodes[0].events.iter().any(|event| matches!(event, TunnelEvent::Lost { .. })));
    assert_eq!(world.nodes[0].counters.get(DropReason::NoSession), 1);
    world.dead.clear();
    world.send(0, 1, b"y");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"y"]);
}

#[test]
fn a_ping_measures_the_round_trip_and_one_without_answer_says_so() {
    let mut world = World::new(2);
    let (b, now) = (world.nodes[1].id, world.now);
    world.nodes[0].tunnel.handle_ping(b, 7, now);
    world.run(1000 * MS);
    let pong = |world: &World, number| {
        world.nodes[0].events.iter().find_map(|event| match event {
            TunnelEvent::Pong { token, result } if *token == number => Some(*result),
            TunnelEvent::Pong { .. }
            | TunnelEvent::HandshakeWanted { .. }
            | TunnelEvent::Connected { .. }
            | TunnelEvent::Lost { .. } => None,
        })
    };
    assert!(matches!(pong(&world, 7), Some(Ok(rtt)) if rtt > Duration::ZERO && rtt < 10 * MS));
    world.dead = vec![world.nodes[1].address];
    let now = world.now;
    world.nodes[0].tunnel.handle_ping(b, 8, now);
    world.run(6000 * MS);
    assert_eq!(pong(&world, 8), Some(Err(PingError::NoAnswer)));
    let stranger = NodeId::from_bytes([3; 32]);
    world.nodes[0].tunnel.handle_ping(stranger, 9, now);
    world.run(MS);
    assert_eq!(pong(&world, 9), Some(Err(PingError::UnknownPeer)));
}

#[test]
fn a_peer_can_only_be_the_source_of_its_own_addresses() {
    let mut world = World::new(3);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    world.delivered(1);
    let spoofed = packet(world.nodes[2].overlay, world.nodes[1].overlay, b"I am c");
    world.send_bytes(0, &spoofed);
    world.run(1000 * MS);
    assert!(world.delivered(1).is_empty());
    assert_eq!(world.nodes[1].counters.get(DropReason::ForeignSource), 1);
}

#[test]
fn a_removed_peer_is_neither_sent_to_nor_heard() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    world.delivered(1);
    let b = world.nodes[1].id;
    world.send(1, 0, b"under way");
    world.nodes[0].tunnel.handle_remove(b);
    world.run(1000 * MS);
    assert!(world.delivered(0).is_empty());
    world.send(0, 1, b"y");
    world.run(1000 * MS);
    assert_eq!(world.nodes[0].counters.get(DropReason::NoRoute), 1);
    let now = world.now;
    assert_eq!(world.nodes[0].tunnel.handle_request(b, b"anything", now), [2]);
}

#[test]
fn hostile_datagrams_are_counted_dropped_and_disturb_nothing() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    world.delivered(1);
    let [a, b] = [0, 1].map(|i: usize| Endpoint::Udp(world.nodes[i].address));
    let session = world.nodes[0].table.peers[0].sending.as_ref().expect("connected");
    let genuine = session.session.seal(Kind::Data, 0, &[0; 40]).expect("below the limit");
    let mut random = 1u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) as u8
    };
    for i in 0..100_000usize {
        let mut garbage: Vec<u8> = (0..i % 90).map(|_| next()).collect();
        if i % 3 == 0 {
            let shared = garbage.len().min(4);
            garbage[..shared].copy_from_slice(&genuine[..shared]);
        }
        world.receive(a, b, garbage);
    }
    // Back to its sender, as it was.
    world.receive(b, a, genuine);
    let counted = |i: usize, reason| world.nodes[i].counters.get(reason);
    let total: u64 = world.nodes[1].counters.snapshot().iter().map(|(_, count)| count).sum();
    assert_eq!(total, 100_000);
    assert!(counted(1, DropReason::Short) > 0);
    assert!(counted(1, DropReason::Malformed) > 0);
    assert!(counted(1, DropReason::NotAuthentic) > 0);
    assert_eq!(counted(0, DropReason::UnknownSession) + counted(0, DropReason::NotAuthentic), 1);
    assert!(world.delivered(1).is_empty());
    world.send(0, 1, b"still here");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"still here"]);
}

#[test]
fn a_member_that_asks_for_sessions_without_end_gets_one_per_second() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let session = Arc::clone(&world.nodes[0].table.peers[0].sending.as_ref().expect("connected").session);
    let [a, b] = [0, 1].map(|i: usize| Endpoint::Udp(world.nodes[i].address));
    for i in 0..1000u32 {
        let request = [&[3], i.to_be_bytes().as_slice()].concat();
        let datagram = session.seal(Kind::Control, 0, &request).expect("below the limit");
        world.receive(a, b, datagram);
    }
    assert!(world.nodes[1].counters.get(DropReason::BadControl) >= 998);
    world.run(1000 * MS);
    world.send(0, 1, b"y");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"x", b"y"]);
}

#[test]
fn the_same_routes_again_change_nothing() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let route = |node: &Node| PeerRoute {
        id: node.id,
        addresses: vec![node.overlay],
        candidates: vec![node.address.ip()],
    };
    let routes: Vec<PeerRoute> = world.nodes.iter().map(route).collect();
    let now = world.now;
    world.nodes[0].tunnel.handle_routes(routes, now);
    assert!(world.nodes[0].tunnel.poll_table().is_none());
}

#[test]
fn a_network_that_the_host_routes_via_a_peer_is_the_peers_and_only_as_long() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let pods: IpNet = "10.42.1.0/24".parse().unwrap();
    let from_a_pod = packet(IpAddr::from([10, 42, 1, 9]), world.nodes[0].overlay, b"pod");
    world.send_bytes(1, &from_a_pod);
    world.run(1000 * MS);
    assert_eq!(world.nodes[0].counters.get(DropReason::ForeignSource), 1);
    let hop = world.nodes[1].overlay;
    world.nodes[0]
        .tunnel
        .handle_gateways(vec![(pods, hop), ("10.42.9.0/24".parse().unwrap(), [10, 9, 9, 9].into())]);
    world.run(1000 * MS);
    world.send_bytes(1, &from_a_pod);
    world.run(1000 * MS);
    assert_eq!(world.delivered(0), [b"pod"]);
    let to_a_pod = packet(world.nodes[0].overlay, IpAddr::from([10, 42, 1, 9]), b"back");
    assert_eq!(world.nodes[0].table.destination(&to_a_pod).map(|peer| peer.id), Ok(world.nodes[1].id));
    world.nodes[0].tunnel.handle_gateways(Vec::new());
    world.run(1000 * MS);
    assert!(world.nodes[0].table.destination(&to_a_pod).is_err());
}
