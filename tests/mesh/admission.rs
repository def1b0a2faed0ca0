//! What those get who are no members.

use std::net::SocketAddr;

use c3os::{
    identity::Identity,
    mesh::{MeshEvent, MeshSettings, Refusal},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    nodes::{Node, settings},
    stranger::{Stranger, read_message, write_message},
};

#[tokio::test]
async fn a_node_with_another_token_learns_nothing_and_both_sides_count_it() {
    let mut a = Node::plain(1);
    let mut b = Node::start(MeshSettings { static_peers: vec![a.address().to_string()], ..settings(2, 9) });
    let (a_id, b_id) = (a.id, b.id);
    for (node, peer, expected) in [(&mut a, b_id, Refusal::OtherToken), (&mut b, a_id, Refusal::ByPeer)] {
        let event = node.next().await;
        let MeshEvent::Refused { id, reason, .. } = event else { panic!("{event:?}") };
        assert_eq!((id, reason), (peer, expected));
    }
    // It comes back, later each time; it is never heard more often than that.
    let counters = b.counters_say(|counters| counters.refused.get(&Refusal::ByPeer) >= Some(&2)).await;
    assert!(counters.dials <= 3, "{counters:?}");
    assert_eq!((a.mesh.neighbours(), b.mesh.neighbours()), (vec![], vec![]));
}

#[tokio::test]
async fn a_stock_libp2p_node_learns_one_neutral_name_and_32_random_bytes() {
    let a = Node::plain(1);
    // Before encryption: which encryption there is.
    let mut socket = TcpStream::connect(a.address()).await.expect("connected");
    let said = exchange(&mut socket, "/multistream/1.0.0", "ls").await;
    assert_eq!(said, ["/multistream/1.0.0", "/noise"]);
    drop(socket);
    // After it: the one protocol, and nothing that libp2p nodes usually have.
    let stranger = Stranger::connect(&Identity::from_seed(&[99; 32]), a.address()).await;
    assert_eq!(stranger.list().await, ["/link/1"]);
    for protocol in [
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
        "/ipfs/kad/1.0.0",
        "/meshsub/1.1.0",
        "/libp2p/circuit/relay/0.2.0/hop",
        "/libp2p/autonat/1.0.0",
        "/data/1",
        "/kubeconfig/1",
        "/command/1",
    ] {
        assert_eq!(stranger.ask(protocol).await, "na", "{protocol}");
    }
    let mut link = stranger.link().await;
    let challenge = read_message(&mut link).await.expect("a challenge");
    assert_eq!(challenge.len(), 32);
    write_message(&mut link, &[0; 64]).await;
    assert_eq!(link.read_to_end(&mut Vec::new()).await.ok(), Some(0), "no word after a wrong proof");
    a.counters_say(|counters| counters.refused.get(&Refusal::OtherToken) == Some(&1)).await;
    // Back at once, it is not even given a challenge.
    let again = Stranger::connect(&Identity::from_seed(&[99; 32]), a.address()).await;
    drop(again);
    a.counters_say(|counters| counters.refused.get(&Refusal::TooSoon) == Some(&1)).await;
}

#[tokio::test]
async fn a_stranger_that_says_nothing_is_closed_after_five_seconds() {
    let mut a = Node::plain(1);
    let stranger = Stranger::connect(&Identity::from_seed(&[99; 32]), a.address()).await;
    let mut link = stranger.link().await;
    read_message(&mut link).await.expect("a challenge");
    let start = std::time::Instant::now();
    assert_eq!(link.read_to_end(&mut Vec::new()).await.ok(), Some(0));
    let elapsed = start.elapsed().as_secs_f32();
    assert!((4.0..7.0).contains(&elapsed), "{elapsed} s");
    let event = a.next().await;
    assert!(matches!(event, MeshEvent::Refused { reason: Refusal::Silent, .. }), "{event:?}");
    assert_eq!(a.mesh.counters().unproven, 0);
}

#[tokio::test]
async fn strangers_that_hold_connections_open_do_not_keep_a_member_out() {
    let mut a = Node::plain(1);
    // Some say nothing at all, some agree on encryption and then say nothing.
    let mut half_open = Vec::new();
    for _ in 0..100 {
        half_open.push(TcpStream::connect(a.address()).await.expect("connected"));
    }
    let mut silent = Vec::new();
    for seed in 100..180 {
        silent.push(Stranger::connect(&Identity::from_seed(&[seed; 32]), a.address()).await);
    }
    let mut b = Node::dialling(2, &[&a]);
    b.up(a.id).await;
    a.up(b.id).await;
    let counters = a.mesh.counters();
    assert!(counters.unproven <= 32, "{counters:?}");
    assert!(counters.crowded_out >= 68, "{counters:?}");
    assert!(counters.refused.get(&Refusal::Crowded) >= Some(&40), "{counters:?}");
}

#[tokio::test]
async fn a_node_that_dials_a_stranger_tells_it_a_neutral_name_and_random_bytes() {
    // A server that speaks no libp2p at all gets the opening of multistream-select and is left alone for longer
    // each time.
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = server.local_addr().expect("a port");
    let a = Node::start(MeshSettings { static_peers: vec![address.to_string()], ..settings(1, 1) });
    let (mut socket, _) = server.accept().await.expect("a connection");
    let mut heard = vec![0; 27];
    tokio::io::AsyncReadExt::read_exact(&mut socket, &mut heard).await.expect("an opening");
    assert_eq!(heard, b"\x13/multistream/1.0.0\n\x07/noise\n"[..27]);
    drop(socket);
    a.counters_say(|counters| counters.dials_failed >= 1).await;
}

/// Says two lines of multistream-select by hand and returns what comes back.
async fn exchange(socket: &mut TcpStream, first: &str, second: &str) -> Vec<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for line in [first, second] {
        let line = format!("{}{line}\n", char::from(line.len() as u8 + 1));
        socket.write_all(line.as_bytes()).await.expect("it goes out");
    }
    let mut said = Vec::new();
    for _ in 0..2 {
        let mut message = vec![0; usize::from(socket.read_u8().await.expect("an answer"))];
        socket.read_exact(&mut message).await.expect("an answer");
        // A list is a message of messages.
        let text = String::from_utf8(message).expect("text");
        said.push(text.trim_matches(|c: char| c.is_control()).to_owned());
    }
    said
}

#[tokio::test]
async fn garbage_on_the_link_stream_is_refused_and_disturbs_nobody() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    for (seed, garbage) in [(101, vec![0]), (102, vec![255; 256]), (103, vec![1, 2]), (104, vec![31; 32])] {
        let stranger = Stranger::connect(&Identity::from_seed(&[seed; 32]), a.address()).await;
        let mut link = stranger.link().await;
        read_message(&mut link).await.expect("a challenge");
        link.write_all(&garbage).await.expect("it goes out");
        link.flush().await.expect("it goes out");
        assert_eq!(link.read_to_end(&mut Vec::new()).await.ok(), Some(0));
    }
    a.counters_say(|counters| counters.refused.get(&Refusal::OtherProtocol) == Some(&4)).await;
    a.mesh.send(b.id, vec![1]).expect("b is still there");
    assert_eq!(b.message().await.1, [1]);
}
