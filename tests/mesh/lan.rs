//! Two hosts on one LAN, each in a network namespace of its own. Namespaces take root; without it the test says so and
//! passes.

use std::{
    fs,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use c3os::mesh::{MeshEvent, MeshSettings};
use nix::sched::{CloneFlags, unshare};

use crate::nodes::{Node, settings};

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// A thread in a network namespace of its own, with a node that tells its events; ends when nobody listens.
fn host(number: u8, say: mpsc::Sender<(u8, Instant, MeshEvent)>) {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the right to make namespaces");
        let link = fs::read_link("/proc/thread-self").expect("Linux");
        let (ready, cabled) = mpsc::channel();
        let task = link.file_name().expect("a task").to_string_lossy().into_owned();
        tell.send((task, ready)).expect("the test waits");
        cabled.recv().expect("the cable is in");
        for arguments in [
            "link set lo up".to_owned(),
            format!("link set uplink{number} name eth0"),
            format!("addr add 192.0.2.{number}/24 dev eth0"),
            "link set eth0 up".to_owned(),
        ] {
            ip(&arguments);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut node =
                Node::start(MeshSettings { mdns: true, listen_port: 4001, ..settings(number, 41) });
            while let Some(event) = node.events.recv().await {
                if say.send((number, Instant::now(), event)).is_err() {
                    return;
                }
            }
        });
    });
    let (task, ready) = told.recv().expect("the host starts");
    ip(&format!("link add port{number} type veth peer name uplink{number}"));
    ip(&format!("link set port{number} master lan"));
    ip(&format!("link set port{number} up"));
    ip(&format!("link set uplink{number} netns {task}"));
    ready.send(()).expect("the host waits");
}

/// Which event a step waits for.
type Wanted = fn(&MeshEvent) -> bool;

#[test]
fn two_hosts_find_each_other_notice_a_cut_cable_and_meet_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces take root");
        return;
    }
    // The LAN's bridge is in a namespace of this thread's own.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may");
    ip("link add lan type bridge");
    ip("link set lan up");
    let (say, events) = mpsc::channel();
    let start = Instant::now();
    for number in [1, 2] {
        host(number, say.clone());
    }
    let both = |what: &str, since: Instant, wanted: Wanted, at_most: u64| {
        let mut waiting = vec![1, 2];
        while !waiting.is_empty() {
            let (number, at, event) = events.recv_timeout(Duration::from_secs(120)).expect("an event");
            println!("{:.2} s host {number}: {event:?}", at.duration_since(since).as_secs_f32());
            if wanted(&event) {
                waiting.retain(|other| *other != number);
            }
        }
        assert!(since.elapsed() < Duration::from_secs(at_most), "{what} took {:?}", since.elapsed());
    };
    let up: Wanted = |event| matches!(event, MeshEvent::PeerUp { .. });
    let down: Wanted = |event| matches!(event, MeshEvent::PeerDown { .. });
    both("finding", start, up, 3);
    // The bridge's side: no host sees its own cable go.
    ip("link set port1 nomaster");
    both("giving up", Instant::now(), down, 20);
    ip("link set port1 master lan");
    both("meeting again", Instant::now(), up, 30);
}
