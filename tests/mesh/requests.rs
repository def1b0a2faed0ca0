//! Requests and streams of packets between neighbours.

use std::collections::VecDeque;

use c3os::mesh::{MAXIMUM_REQUEST, MeshEvent, RequestError, RequestKind};

use tokio::time::timeout;

use crate::nodes::{Node, PATIENCE};

/// Answers every request with its bytes reversed; an empty one is refused.
fn serve(mut node: Node) {
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let MeshEvent::Request { mut bytes, reply, .. } = event
                && !bytes.is_empty()
            {
                bytes.reverse();
                let _ = reply.send(bytes);
            }
        }
    });
}

#[tokio::test]
async fn a_request_gets_its_answer_and_a_refused_one_says_so() {
    let a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    b.up(a.id).await;
    let (to, ask) = (a.id, b.mesh.clone());
    serve(a);
    let answer = ask.request(to, RequestKind::DataHandshake, vec![1, 2, 3]).await;
    assert_eq!(answer, Ok(vec![3, 2, 1]));
    let longest = vec![5; MAXIMUM_REQUEST];
    assert_eq!(ask.request(to, RequestKind::Kubeconfig, longest.clone()).await, Ok(longest));
    let too_long = vec![5; MAXIMUM_REQUEST + 1];
    assert_eq!(ask.request(to, RequestKind::Kubeconfig, too_long).await, Err(RequestError::Size));
    assert_eq!(ask.request(to, RequestKind::Command, vec![]).await, Err(RequestError::Refused));
    assert_eq!(ask.request(b.id, RequestKind::Command, vec![]).await, Err(RequestError::NotConnected));
    let counters = ask.counters();
    assert_eq!((counters.requests_sent, counters.requests_failed), (5, 3));
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered_both_ways() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    let (a_mesh, b_mesh, a_id, b_id) = (a.mesh.clone(), b.mesh.clone(), a.id, b.id);
    serve(a);
    serve(b);
    let asked = (0..24_u8).flat_map(|number| {
        [
            a_mesh.request(b_id, RequestKind::DataHandshake, vec![number, 0]),
            b_mesh.request(a_id, RequestKind::DataHandshake, vec![number, 0]),
        ]
    });
    for (index, answer) in futures::future::join_all(asked).await.into_iter().enumerate() {
        assert_eq!(answer, Ok(vec![0, index as u8 / 2]));
    }
}

#[tokio::test]
async fn packets_arrive_in_order_until_the_connection_ends() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    b.up(a.id).await;
    let mut writer = b.mesh.open_packets(a.id).await.expect("a neighbour");
    let lengths = [0, 1, 1400, 65_535, 17];
    let packets: VecDeque<Vec<u8>> = lengths.map(|length| vec![length as u8; length]).into();
    writer.send(&packets).await.expect("it takes them");
    let mut before = Vec::new();
    let mut reader = loop {
        match a.next().await {
            MeshEvent::Packets { from, packets } if from == b.id => break packets,
            other => before.push(format!("{other:?}")),
        }
    };
    assert!(before.iter().any(|event| event.starts_with("PeerUp")), "{before:?}");
    let mut packet = Vec::new();
    for expected in &packets {
        reader.receive(&mut packet).await.expect("one more");
        assert_eq!(packet, *expected);
    }
    assert!(matches!(b.mesh.open_packets(b.id).await, Err(RequestError::NotConnected)));
    a.mesh.close().await;
    timeout(PATIENCE, writer.closed()).await.expect("the writer notices");
    assert!(reader.receive(&mut packet).await.is_err());
}
