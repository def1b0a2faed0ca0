//! Tokens that replace each other, and those who are banned.

use std::{collections::BTreeSet, sync::Arc};

use c3os::{
    identity::NodeId,
    mesh::{MeshEvent, MeshSettings, Refusal},
    token::{Gate, Right},
};

use crate::nodes::{Node, identity, keys, settings};

fn gate(tokens: impl IntoIterator<Item = (u8, Right)>, banned: &[NodeId]) -> Gate {
    let tokens = tokens.into_iter().map(|(token, right)| (Arc::new(keys(token)), right));
    Gate::new(tokens, banned.iter().copied().collect())
}

/// A node that dials `other`, with these tokens.
fn dialling(seed: u8, other: &Node, gate: Gate) -> Node {
    let static_peers = vec![other.address().to_string()];
    Node::start(MeshSettings { static_peers, gate, ..settings(seed, 1) })
}

#[tokio::test]
async fn a_banned_neighbour_is_out_at_once_and_comes_back_with_nothing() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    a.mesh.set_gate(gate([(1, Right::Anyone)], &[b.id])).await;
    a.down(b.id).await;
    b.down(a.id).await;
    a.counters_say(|counters| counters.refused.get(&Refusal::Banned) >= Some(&2)).await;
    assert!(a.mesh.neighbours().is_empty());
}

#[tokio::test]
async fn a_connection_goes_on_while_its_token_is_replaced() {
    let mut a = Node::plain(1);
    let mut b = Node::dialling(2, &[&a]);
    a.up(b.id).await;
    b.up(a.id).await;
    let known = BTreeSet::from([a.id, b.id]);
    for tokens in [
        vec![(1, Right::Anyone), (2, Right::Anyone)],
        vec![(2, Right::Anyone), (1, Right::Anyone)],
        vec![(2, Right::Anyone), (1, Right::Errand(known))],
    ] {
        a.mesh.set_gate(gate(tokens.clone(), &[])).await;
        b.mesh.set_gate(gate(tokens, &[])).await;
    }
    a.mesh.send(b.id, vec![7]).expect("b is still there");
    assert_eq!(b.message().await, (a.id, vec![7]));
    assert!(a.mesh.counters().refused.is_empty());
}

#[tokio::test]
async fn somebody_who_was_away_fetches_the_new_token_and_nothing_else() {
    let b_id = identity(2).id();
    let tokens = [(2, Right::Anyone), (1, Right::Errand([b_id].into()))];
    let mut a = Node::start(MeshSettings { gate: gate(tokens, &[]), ..settings(1, 1) });
    let mut b = dialling(2, &a, gate([(1, Right::Anyone)], &[]));
    let reply = loop {
        if let MeshEvent::Errand { id, reply } = a.next().await {
            assert_eq!(id, b_id);
            break reply;
        }
    };
    reply.send(vec![5; 300]).expect("somebody waits for it");
    let (from, bytes) = b
        .wait(|event| match event {
            MeshEvent::Replaced { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        })
        .await;
    assert_eq!((from, bytes), (a.id, vec![5; 300]));
    assert!(a.mesh.neighbours().is_empty() && b.mesh.neighbours().is_empty());
    b.mesh.set_gate(gate([(2, Right::Anyone)], &[])).await;
    b.up(a.id).await;
    a.up(b.id).await;
}

#[tokio::test]
async fn a_replaced_token_lets_no_new_machine_in() {
    let tokens = [(2, Right::Anyone), (1, Right::Errand(BTreeSet::new()))];
    let mut a = Node::start(MeshSettings { gate: gate(tokens, &[]), ..settings(1, 1) });
    let mut b = dialling(2, &a, gate([(1, Right::Anyone)], &[]));
    let event = a.next().await;
    assert!(matches!(event, MeshEvent::Refused { reason: Refusal::Replaced, .. }), "{event:?}");
    let event = b.next().await;
    assert!(matches!(event, MeshEvent::Refused { reason: Refusal::ByPeer, .. }), "{event:?}");
}
