//! Members among themselves.

use std::time::{Duration, Instant};

use c3os::mesh::{MAXIMUM_MESSAGE, MeshEvent, MeshSettings, Refusal, SendError};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    nodes::{Node, identity, keys, settings},
    stranger::Stranger,
};

#[tokio::test]
async fn two_nodes_with_one_token_meet_by_static_peer_and_exchange_messages_in_order() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    assert_eq!(a.up(b.id).await, b.address(), "where b can be dialled again, not where it dialled from");
    assert_eq!(b.up(a.id).await, a.address());
    for number in 0..200_u32 {
        a.mesh.send(b.id, number.to_be_bytes().to_vec()).expect("a queue of 256");
    }
    for number in 0..200_u32 {
        assert_eq!(b.message().await, (a.id, number.to_be_bytes().to_vec()));
    }
    let longest = vec![7; MAXIMUM_MESSAGE];
    b.mesh.send(a.id, longest.clone()).expect("queued");
    assert_eq!(a.message().await, (b.id, longest));
    assert_eq!(a.mesh.send(b.id, vec![0; MAXIMUM_MESSAGE + 1]), Err(SendError::Size));
    assert_eq!(a.mesh.send(a.id, vec![1]), Err(SendError::NotConnected));
    let counters = a.counters_say(|counters| counters.messages_received == 1).await;
    assert_eq!((counters.messages_sent, counters.dropped_size, counters.dropped_not_connected), (200, 1, 1));
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_keep_one_connection() {
    for round in 0..10 {
        let (mut a, mut b) = (Node::plain(10 + round), Node::plain(30 + round));
        a.mesh.dial(&b.address().to_string()).expect("an address");
        b.mesh.dial(&a.address().to_string()).expect("an address");
        a.up(b.id).await;
        b.up(a.id).await;
        a.counters_say(|counters| counters.unproven == 0).await;
        for number in 0..50_u8 {
            a.mesh.send(b.id, vec![number]).expect("queued");
            b.mesh.send(a.id, vec![number]).expect("queued");
        }
        let (a_id, b_id) = (a.id, b.id);
        for (node, peer) in [(&mut a, b_id), (&mut b, a_id)] {
            for number in 0..50_u8 {
                match node.next().await {
                    MeshEvent::Message { from, bytes } => assert_eq!((from, bytes), (peer, vec![number])),
                    other => panic!("the connection flaps: {other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_says_goodbye_is_down_at_once_and_up_again_when_it_returns() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    let start = Instant::now();
    b.mesh.close().await;
    a.down(b.id).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    let mut again = Node::dialling(2, &[&a]);
    a.up(again.id).await;
    again.up(a.id).await;
}

#[test]
fn a_killed_node_is_down_within_two_seconds() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let mut a = ours.block_on(async { Node::plain(1) });
    let b = theirs.block_on(async { Node::dialling(2, &[&a]) });
    ours.block_on(a.up(b.id));
    // Its tasks stop where they are and its sockets close, as the kernel does for a process after kill -9.
    theirs.shutdown_background();
    let start = Instant::now();
    ours.block_on(a.down(b.id));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_member_that_falls_silent_is_given_up_after_sixteen_seconds() {
    let mut a = Node::plain(2);
    let (low, start) = (lower_than(&a), Instant::now());
    let member = Stranger::connect(&low, a.address()).await;
    let _stream = member.become_neighbour(&keys(1)).await;
    a.up(low.id()).await;
    a.down(low.id()).await;
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_secs(15) && elapsed < Duration::from_secs(19), "{elapsed:?}");
    assert_eq!(a.mesh.counters().fell_silent, 1);
}

#[tokio::test]
async fn a_frame_longer_than_a_message_ends_the_connection() {
    let mut a = Node::plain(2);
    let low = lower_than(&a);
    let member = Stranger::connect(&low, a.address()).await;
    let mut stream = member.become_neighbour(&keys(1)).await;
    a.up(low.id()).await;
    // A message of 3 bytes is fine, a frame of a later version too, one of 64 KiB + 1 is not.
    stream.write_all(&[1, 0, 0, 3, 1, 2, 3, 77, 0, 0, 1, 9]).await.expect("it goes out");
    stream.write_all(&[1, 1, 0, 1]).await.expect("it goes out");
    stream.flush().await.expect("it goes out");
    assert_eq!(a.message().await, (low.id(), vec![1, 2, 3]));
    a.down(low.id()).await;
    assert_eq!(a.mesh.counters().peer_faults, 1);
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.ok(), Some(0), "the connection is closed");
}

#[tokio::test]
async fn a_node_with_enough_neighbours_says_so_and_keeps_them() {
    let mut a = Node::start(MeshSettings { max_neighbours: 1, ..settings(1, 1) });
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    let mut c = Node::dialling(3, &[&a]);
    let (a_id, c_id) = (a.id, c.id);
    for (node, peer) in [(&mut a, c_id), (&mut c, a_id)] {
        node.wait(|event| match event {
            MeshEvent::Refused { id, reason, .. } if *id == peer => {
                assert_eq!(*reason, Refusal::Full);
                Some(())
            }
            _ => None,
        })
        .await;
    }
    a.mesh.send(b.id, vec![1]).expect("b is still there");
    assert_eq!(b.message().await.1, [1]);
}

#[tokio::test]
async fn nothing_runs_through_the_overlay() {
    let excluded = || vec!["127.0.0.0/8".parse().expect("a subnet")];
    let a = Node::start(MeshSettings { excluded_subnets: excluded(), ..settings(1, 1) });
    let b = Node::dialling(2, &[&a]);
    a.counters_say(|counters| counters.overlay_refused >= 1).await;
    assert_eq!(b.mesh.neighbours(), []);
    let c = Node::start(MeshSettings {
        excluded_subnets: excluded(),
        static_peers: vec![b.address().to_string()],
        ..settings(3, 1)
    });
    c.counters_say(|counters| counters.overlay_refused >= 1 && counters.dials == 0).await;
}

#[tokio::test]
async fn a_node_that_is_its_own_static_peer_leaves_itself_alone() {
    let a = Node::plain(1);
    a.mesh.dial(&a.address().to_string()).expect("an address");
    let counters = a.counters_say(|counters| counters.dials_failed == 1).await;
    assert_eq!(counters.dials, 1);
    assert_eq!(a.mesh.neighbours(), []);
}

#[tokio::test]
async fn where_tcp_is_not_to_be_had_quic_serves() {
    let mut a = Node::plain(1);
    let quic = format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{}", a.mesh.listen_port(), a.id);
    let mut b = Node::start(MeshSettings { static_peers: vec![quic], ..settings(2, 1) });
    a.up(b.id).await;
    b.up(a.id).await;
    let longest = vec![7; MAXIMUM_MESSAGE];
    b.mesh.send(a.id, longest.clone()).expect("queued");
    assert_eq!(a.message().await, (b.id, longest));
    b.mesh.close().await;
    a.down(b.id).await;
}

#[tokio::test]
async fn a_remembered_peer_is_dialled_where_it_was_even_if_it_starts_later() {
    let before = Node::plain(1);
    let (id, address) = (before.id, before.address());
    before.mesh.close().await;
    let known_peers = vec![(id, vec![address])];
    let mut b = Node::start(MeshSettings { known_peers, ..settings(2, 1) });
    b.counters_say(|counters| counters.dials_failed >= 2).await;
    let start = Instant::now();
    let mut again = Node::start(MeshSettings { listen_port: address.port(), ..settings(1, 1) });
    assert_eq!(again.address(), address);
    again.up(b.id).await;
    b.up(id).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_agent_takes_another_port() {
    let a = Node::plain(1);
    let port = a.mesh.listen_port();
    let mut b = Node::start(MeshSettings { listen_port: port, ..settings(2, 1) });
    assert_ne!(b.mesh.listen_port(), port);
    b.mesh.dial(&a.address().to_string()).expect("an address");
    b.up(a.id).await;
}

#[tokio::test]
async fn a_member_that_lost_its_connection_without_our_knowing_is_down_before_it_is_up_again() {
    let mut a = Node::plain(2);
    let low = lower_than(&a);
    let first = Stranger::connect(&low, a.address()).await;
    let mut lost = first.become_neighbour(&keys(1)).await;
    a.up(low.id()).await;
    let second = Stranger::connect(&low, a.address()).await;
    let mut stream = second.become_neighbour(&keys(1)).await;
    stream.write_all(&[1, 0, 0, 1, 9]).await.expect("it goes out");
    stream.flush().await.expect("it goes out");
    let events = [a.next().await, a.next().await, a.next().await];
    assert!(
        matches!(&events, [MeshEvent::PeerDown { .. }, MeshEvent::PeerUp { .. }, MeshEvent::Message { bytes, .. }]
            if *bytes == [9]),
        "{events:?}"
    );
    assert_eq!(lost.read_to_end(&mut Vec::new()).await.ok(), Some(0), "the old one is closed");
}

#[tokio::test]
async fn five_nodes_that_all_know_each_other_settle_on_one_connection_per_pair() {
    let mut nodes = (40..45).map(Node::plain).collect::<Vec<_>>();
    let addresses = nodes.iter().map(|node| node.address().to_string()).collect::<Vec<_>>();
    for node in &nodes {
        for address in &addresses {
            node.mesh.dial(address).expect("an address");
        }
    }
    for node in &mut nodes {
        for _ in 0..4 {
            let event = node.next().await;
            assert!(matches!(event, MeshEvent::PeerUp { .. }), "{event:?}");
        }
    }
    for node in &mut nodes {
        // Whatever still goes on settles before the counters do; nobody flaps.
        node.counters_say(|counters| (counters.neighbours, counters.unproven) == (4, 0)).await;
        assert!(node.events.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_neighbour_that_does_not_read_costs_messages_not_memory() {
    let mut a = Node::plain(2);
    let low = lower_than(&a);
    let member = Stranger::connect(&low, a.address()).await;
    let _stream = member.become_neighbour(&keys(1)).await;
    a.up(low.id()).await;
    let mut queued = 0;
    while a.mesh.send(low.id(), vec![0; MAXIMUM_MESSAGE]).is_ok() {
        queued += 1;
        assert!(queued < 1_000, "it is bounded");
        tokio::task::yield_now().await;
    }
    assert_eq!(a.mesh.send(low.id(), vec![0; 9]), Err(SendError::Full));
    assert!(a.mesh.counters().dropped_queue_full >= 2);
}

fn lower_than(node: &Node) -> c3os::identity::Identity {
    let low = (100..=255).map(|seed| c3os::identity::Identity::from_seed(&identity(seed).seed()));
    low.into_iter().find(|identity| identity.id() < node.id).expect("one of many ids is lower")
}
