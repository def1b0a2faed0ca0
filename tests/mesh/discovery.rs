//! Multicast DNS, on loopback.

use std::time::{Duration, Instant};

use c3os::mesh::{MeshEvent, MeshSettings};

use crate::nodes::{Node, settings};

fn on_loopback(seed: u8, token: u8) -> Node {
    Node::start(MeshSettings { mdns: true, mdns_interfaces: vec!["lo".to_owned()], ..settings(seed, token) })
}

#[tokio::test]
async fn members_find_each_other_on_the_lan_within_a_second_and_others_do_not() {
    // Tokens of this test alone: the other tests' nodes share the loopback.
    let mut a = on_loopback(1, 21);
    let other = on_loopback(3, 22);
    let start = Instant::now();
    let mut b = on_loopback(2, 21);
    let a_id = a.id;
    let found = b.wait(|event| match event {
        MeshEvent::Found { id, addresses } => Some((*id, addresses.clone())),
        MeshEvent::PeerUp { id, address } => Some((*id, vec![*address])),
        _ => None,
    });
    let (id, addresses) = found.await;
    assert_eq!(id, a_id);
    assert!(addresses.contains(&a.address()), "{addresses:?}");
    a.up(b.id).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let counters = other.counters_say(|counters| counters.lan_queries >= 3).await;
    assert_eq!((counters.lan_answers, counters.dials), (0, 0), "{counters:?}");
}
