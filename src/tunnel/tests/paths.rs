//! Which way packets go to a peer, and how much it carries.

use std::{net::SocketAddr, sync::Arc};

use super::{
    MS,
    world::{World, packet},
};
use crate::tunnel::{message::Message, *};

/// Node 1 restarts with another address.
fn move_house(world: &mut World) {
    world.restart(1);
    let new: SocketAddr = "192.168.7.7:51900".parse().unwrap();
    world.nodes[1].address = new;
    world.nodes[1].tunnel.handle_addresses(vec![new.ip()]);
}

#[test]
fn a_peer_that_comes_back_with_another_address_is_sent_to_there_at_once() {
    // After a goodbye.
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    world.nodes[1].tunnel.handle_stop();
    world.run(1000 * MS);
    move_house(&mut world);
    world.send(0, 1, b"y");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"y"]);
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(world.nodes[1].address)));
    // Without: the control plane reports that it is there again.
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    move_house(&mut world);
    let (peer, now) = (world.nodes[1].id, world.now);
    world.nodes[0].tunnel.handle_connected(peer, now);
    world.run(800 * MS);
    world.send(0, 1, b"y");
    world.run(200 * MS);
    assert_eq!(world.delivered(1), [b"y"]);
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(world.nodes[1].address)));
}

#[test]
fn a_peer_that_moves_is_followed_once_it_answers_from_there() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let new: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    world.nodes[1].address = new;
    world.send(1, 0, b"moved");
    world.run(1000 * MS);
    assert_eq!(world.delivered(0), [b"moved"]);
    world.send(0, 1, b"found");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1).last(), Some(&b"found".to_vec()));
    assert_eq!(world.nodes[0].tunnel.peers()[0].endpoint, Some(Endpoint::Udp(new)));
}

#[test]
fn a_peer_cannot_answer_a_probe_that_it_did_not_see() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let (address, victim) = (world.nodes[1].address, "192.0.2.7:4711".parse().unwrap());
    let [ours, theirs] =
        [0, 1].map(|i: usize| Arc::clone(&world.nodes[i].table.peers[0].sending.as_ref().unwrap().session));
    let (peer, now) = (world.nodes[1].id, world.now);
    world.nodes[0].tunnel.handle_ping(peer, 1, now);
    let (_, mut probe) = world.nodes[0].tunnel.poll_transmit().expect("a probe");
    let header = Header::decode(&probe).expect("ours");
    let seen = theirs.open(&header, &mut probe).expect("authentic").plaintext.to_vec();
    let Some(Message::Probe(seen)) = Message::decode(&seen) else { panic!("a probe") };
    world.nodes[0].tunnel.handle_moved(&ours, Endpoint::Udp(victim), now);
    for number in (0..100).chain((1..100).map(|next| seen.wrapping_add(next))) {
        let now = world.now;
        let ack = Message::ProbeAck(number).encode();
        world.nodes[0].tunnel.handle_control(&ours, Endpoint::Udp(address), &ack, now);
    }
    world.run(2000 * MS);
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(address)));
}

#[test]
fn an_old_datagram_sent_again_from_elsewhere_moves_nobody() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    world.send(1, 0, b"y");
    let (_, to, datagram) = world.wire.front().cloned().expect("under way");
    world.run(1000 * MS);
    let before = world.datagrams;
    world.receive(Endpoint::Udp("192.0.2.7:4711".parse().unwrap()), to, datagram);
    world.run(1000 * MS);
    assert_eq!(world.datagrams, before);
    assert_eq!(world.nodes[0].counters.get(DropReason::Replayed), 1);
}

#[test]
fn an_overlay_address_is_never_the_way_to_a_peer() {
    let mut world = World::new(2);
    let overlay = world.nodes[1].overlay;
    let underlay = world.nodes[1].address.ip();
    world.nodes[1].tunnel.handle_addresses(vec![overlay, underlay]);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"x"]);
    assert!(world.nodes[0].table.peers[0].paths.iter().all(|path| *path != Path::Direct(overlay)));
    assert_eq!(world.nodes[0].tunnel.peers()[0].endpoint, Some(Endpoint::Udp(world.nodes[1].address)));
}

#[test]
fn a_datagram_that_came_through_the_overlay_does_not_make_the_overlay_the_way() {
    let mut world = World::new(2);
    let inside = SocketAddr::new(world.nodes[1].overlay, 51900);
    // The very first of a session, and any later one.
    world.send(0, 1, b"x");
    let (from, to, ticket, message) = world.streams.pop_front().expect("a handshake is wanted");
    let answer = world.nodes[1].tunnel.handle_request(from, &message, world.now);
    assert_eq!(to, world.nodes[1].id);
    world.collect();
    let now = world.now;
    world.nodes[0].tunnel.handle_answer(to, ticket, Some(&answer), now);
    world.collect();
    let (_, _, first) = world.wire.pop_front().expect("a probe");
    let outside = SocketAddr::new(world.nodes[0].overlay, 51900);
    let address = world.nodes[1].address;
    world.receive(Endpoint::Udp(outside), Endpoint::Udp(address), first);
    world.collect();
    assert_ne!(world.nodes[1].tunnel.peers()[0].endpoint, Some(Endpoint::Udp(outside)));
    world.run(1000 * MS);
    assert_eq!(world.delivered(1), [b"x"]);
    let session = Arc::clone(&world.nodes[0].table.peers[0].sending.as_ref().expect("connected").session);
    let now = world.now;
    world.nodes[0].tunnel.handle_moved(&session, Endpoint::Udp(inside), now);
    world.collect();
    assert!(world.wire.iter().all(|(_, to, _)| *to != Endpoint::Udp(inside)));
    assert!(session.take_move(), "later moves are told");
    for i in 0..2 {
        let overlay = Path::Direct(world.nodes[1 - i].overlay);
        assert!(world.nodes[i].tunnel.peers()[0].connected);
        assert!(world.nodes[i].table.peers[0].paths.iter().all(|path| *path != overlay));
    }
}

#[test]
fn a_path_that_carries_less_is_found_out_and_one_that_carries_all_is_not_searched() {
    let mtu = |world: &World| world.nodes[0].table.peers()[0].sending.as_ref().map(|sending| sending.mtu);
    let mut world = World::new(2);
    world.longest = 1350 + OVERHEAD;
    world.send(0, 1, b"x");
    world.run(MS);
    assert_eq!(mtu(&world), Some(1420), "until it is known");
    world.run(3000 * MS);
    assert_eq!(mtu(&world), Some(1340));
    // A shorter way still, as the socket may say.
    world.longest = 1200 + OVERHEAD;
    let peer = world.nodes[1].id;
    let now = world.now;
    world.nodes[0].tunnel.handle_too_big(peer, now);
    world.run(3000 * MS);
    assert_eq!(mtu(&world), Some(1200));
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    assert_eq!(mtu(&world), Some(1420));
    let datagrams = world.datagrams;
    world.run(60_000 * MS);
    assert_eq!(world.datagrams, datagrams);
}

#[test]
fn a_path_that_begins_to_carry_less_is_found_out_by_the_next_session() {
    let mtu = |world: &World| world.nodes[0].table.peers()[0].sending.as_ref().map(|sending| sending.mtu);
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    assert_eq!(mtu(&world), Some(1420));
    // Nobody says that something was too big.
    world.longest = 1350 + OVERHEAD;
    for _ in 0..150 {
        world.send(0, 1, b"y");
        world.run(1000 * MS);
    }
    assert_eq!(mtu(&world), Some(1340));
    world.delivered(1);
    world.send(0, 1, &[7; 1340 - 20]);
    world.run(100 * MS);
    assert_eq!(world.delivered(1), [[7; 1340 - 20]]);
}

/// The mesh connects the first two nodes.
fn connect(world: &mut World) {
    let (a, b, now) = (world.nodes[0].id, world.nodes[1].id, world.now);
    world.nodes[0].tunnel.handle_connected(b, now);
    world.nodes[1].tunnel.handle_connected(a, now);
}

fn endpoint(world: &World) -> Option<Endpoint> {
    world.nodes[0].tunnel.peers()[0].endpoint
}

#[test]
fn where_udp_does_not_pass_a_stream_carries_packets_until_it_does() {
    let mut world = World::new(2);
    // The mesh connects who has no address yet.
    (0..2).for_each(|i| world.nodes[i].tunnel.handle_routes(Vec::new(), world.now));
    connect(&mut world);
    (0..2).for_each(|i| world.introduce(i));
    let address = world.nodes[1].address;
    world.dead.push(address);
    world.send(0, 1, b"first");
    world.run(2000 * MS);
    assert_eq!(world.delivered(1), [b"first"]);
    assert_eq!(endpoint(&world), Some(Endpoint::Stream(world.nodes[1].id)));
    world.send(1, 0, b"back");
    world.run(1000 * MS);
    assert_eq!(world.delivered(0), [b"back"]);
    let mtu = world.nodes[0].table.peers()[0].sending.as_ref().map(|sending| sending.mtu);
    assert_eq!(mtu, Some(1420), "a stream has no longest packet");
    // UDP passes again: within two looks the packets take it.
    world.dead.clear();
    for _ in 0..24 {
        world.send(0, 1, b"x");
        world.run(500 * MS);
    }
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(address)));
    assert_eq!(world.delivered(1).len(), 24, "none is lost by the change");
}

#[test]
fn a_stream_is_left_alone_where_udp_passes_and_taken_when_it_stops_passing() {
    let mut world = World::new(2);
    connect(&mut world);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    let address = world.nodes[1].address;
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(address)));
    assert_eq!(world.by_stream, 0);
    world.dead.push(address);
    for _ in 0..12 {
        world.send(0, 1, b"y");
        world.run(1000 * MS);
    }
    assert_eq!(endpoint(&world), Some(Endpoint::Stream(world.nodes[1].id)));
    assert_eq!(world.delivered(1).last(), Some(&b"y".to_vec()));
}

#[test]
fn a_way_that_dies_in_our_direction_alone_is_left_though_the_peer_is_still_heard() {
    let mut world = World::new(2);
    connect(&mut world);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    let address = world.nodes[1].address;
    world.deaf.push(address);
    for i in 0..20u8 {
        world.send(1, 0, b"still heard");
        if i % 2 == 0 {
            world.send(0, 1, b"y");
        }
        world.run(500 * MS);
    }
    assert_eq!(endpoint(&world), Some(Endpoint::Stream(world.nodes[1].id)));
    world.delivered(1);
    world.send(0, 1, b"z");
    world.run(100 * MS);
    assert_eq!(world.delivered(1), [b"z"]);
}

#[test]
fn what_two_ends_say_on_a_slow_way_does_not_multiply() {
    let mut world = World::new(2);
    connect(&mut world);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let address = world.nodes[1].address;
    world.dead.push(address);
    world.delay = 800 * MS;
    let before = world.datagrams;
    for _ in 0..20 {
        world.send(0, 1, b"y");
        world.send(1, 0, b"y");
        world.run(1000 * MS);
    }
    assert!(world.datagrams - before < 400, "{}", world.datagrams - before);
}

#[test]
fn a_way_that_answers_late_is_not_left() {
    let mut world = World::new(2);
    connect(&mut world);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    let address = world.nodes[1].address;
    // Full buffers on the way: a round trip of 1.6 s.
    world.delay = 800 * MS;
    for _ in 0..120 {
        world.send(0, 1, b"y");
        world.send(1, 0, b"y");
        world.run(500 * MS);
        assert_eq!(endpoint(&world), Some(Endpoint::Udp(address)));
    }
    assert_eq!(world.by_stream, 0);
}

#[test]
fn an_end_that_only_hears_is_idle_even_if_the_one_way_to_the_peer_is_dead() {
    let mut world = World::new(2);
    world.send(0, 1, b"x");
    world.run(20_000 * MS);
    let [a, b] = [0, 1].map(|i: usize| world.nodes[i].address);
    world.deaf.push(b);
    let session = Arc::clone(&world.nodes[1].table.peers[0].sending.as_ref().expect("connected").session);
    let bytes =
        [&[0; META], packet(world.nodes[1].overlay, world.nodes[0].overlay, b"y").as_slice()].concat();
    world.send(0, 1, b"z");
    let mut before = 0;
    for second in 0..60 {
        let datagram = session.seal(Kind::Data, 0, &bytes).expect("below the limit");
        world.receive(Endpoint::Udp(b), Endpoint::Udp(a), datagram);
        world.run(1000 * MS);
        if second == 30 {
            before = world.datagrams;
        }
    }
    assert_eq!(world.delivered(0).len(), 60);
    assert_eq!(world.datagrams, before);
}

#[test]
fn when_the_connection_of_the_mesh_ends_its_stream_is_no_way_any_more() {
    let mut world = World::new(2);
    connect(&mut world);
    let address = world.nodes[1].address;
    world.dead.push(address);
    world.send(0, 1, b"x");
    world.run(2000 * MS);
    let (peer, now) = (world.nodes[1].id, world.now);
    world.nodes[0].tunnel.handle_disconnected(peer, now);
    assert_eq!(endpoint(&world), None);
    world.dead.clear();
    world.send(0, 1, b"again");
    world.run(2000 * MS);
    assert_eq!(endpoint(&world), Some(Endpoint::Udp(address)));
    assert_eq!(world.delivered(1).last(), Some(&b"again".to_vec()));
}

#[test]
fn a_neighbour_cannot_pass_on_what_another_one_sealed() {
    let mut world = World::new(3);
    world.send(0, 1, b"x");
    world.run(1000 * MS);
    let session = Arc::clone(&world.nodes[0].table.peers[0].sending.as_ref().expect("connected").session);
    let bytes =
        [&[0; META], packet(world.nodes[0].overlay, world.nodes[1].overlay, b"y").as_slice()].concat();
    let datagram = session.seal(Kind::Data, 0, &bytes).expect("below the limit");
    let (to, stranger) = (Endpoint::Stream(world.nodes[1].id), Endpoint::Stream(world.nodes[2].id));
    world.receive(stranger, to, datagram.clone());
    assert_eq!(world.delivered(1), [b"x"]);
    assert_eq!(world.nodes[1].counters.get(DropReason::UnknownSession), 1);
    world.receive(Endpoint::Stream(world.nodes[0].id), to, datagram);
    assert_eq!(world.delivered(1), [b"y"]);
}
