//! What an idle mesh costs. Not run by itself: it needs a minute and a network namespace of its own.

use std::{fs, time::Duration};

use c3os::mesh::MeshSettings;

use crate::nodes::{Node, settings};

/// `unshare -rn sh -c 'ip link set lo up; mesh --ignored --nocapture idle'`, `mesh` being this binary.
#[tokio::test]
#[ignore = "takes a minute, and counts all bytes of the network namespace"]
async fn an_idle_mesh_of_three_nodes_sends_less_than_100_bytes_per_second_and_node() {
    let mut nodes = (1..=3)
        .map(|seed| {
            let mdns_interfaces = vec!["lo".to_owned()];
            Node::start(MeshSettings { mdns: true, mdns_interfaces, ..settings(seed, 31) })
        })
        .collect::<Vec<_>>();
    let ids = nodes.iter().map(|node| node.id).collect::<Vec<_>>();
    for node in &mut nodes {
        for _ in 0..2 {
            let up = node.wait(|event| match event {
                c3os::mesh::MeshEvent::PeerUp { id, .. } => Some(*id),
                _ => None,
            });
            assert!(ids.contains(&up.await));
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, start) = (sent(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let rate = (sent() - before) as f64 / start.elapsed().as_secs_f64() / 3.0;
    println!("{rate:.1} B/s per node, RSS of all three {} KiB", resident());
    assert!(rate < 100.0, "{rate}");
}

fn sent() -> u64 {
    let table = fs::read_to_string("/proc/net/dev").expect("Linux");
    let lo = table.lines().find(|line| line.trim_start().starts_with("lo:")).expect("a loopback interface");
    lo.split_whitespace().nth(9).and_then(|bytes| bytes.parse().ok()).expect("bytes sent")
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("KiB")
}
