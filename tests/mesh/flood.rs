//! An admitted member that says as much as it can, against a whole agent: the agent reads no more than anybody has to
//! say, and hears everybody else.

use std::{fs, sync::mpsc, thread, time::Instant};

use c3os::{ledger::Ledger, mesh::MeshEvent};
use nix::unistd::gettid;
use tokio::{runtime, time::timeout};

use crate::{
    forger::{Carrier, agent, counted, held},
    nodes::{Node, PATIENCE, identity, settings},
};

/// How often the agent has to have been told too much before anything is looked at: some seconds of a flood.
const PACED: u64 = 500;
/// What the agent may read of one neighbour at once, and in a second (`PACE` in `src/mesh/link.rs`).
const PACE: (u64, u64) = (4096, 1024);

/// Floods its neighbours with what a member may say, and with comparisons that want an answer each.
async fn flood(mut node: Node) {
    let mut ledger = Ledger::new(identity(64), [6; 32], Instant::now());
    ledger
        .put("note/of-the-flooder".parse().expect("a key"), vec![7; 200], None, Instant::now())
        .expect("it fits");
    let to = loop {
        if let MeshEvent::PeerUp { id, .. } = node.next().await {
            break id;
        }
    };
    ledger.handle_neighbour_up(to, Instant::now());
    let mut said = Vec::new();
    while said.len() < 2 {
        if let Some((at, _)) = ledger.poll_timeout() {
            ledger.handle_timeout(at);
        }
        while ledger.poll_write().is_some() {
            ledger.handle_written(Instant::now());
        }
        said.extend(std::iter::from_fn(|| ledger.poll_message()).map(|(_, bytes)| bytes));
    }
    for round in 0_u64.. {
        for message in &said {
            let mut message = message.clone();
            // A comparison is told from what differs: every one has to be looked at.
            if let Some(last) = message.last_chunk_mut::<8>().filter(|_| round % 2 == 0) {
                *last = round.to_be_bytes();
            }
            // The queue is full most of the time: that is the point.
            while node.mesh.send(to, message.clone()).is_err() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Processor time of a thread of this process, in nanoseconds.
fn spent(thread: i32) -> u64 {
    let told = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    told.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_floods_is_read_at_a_bounded_pace_and_everybody_else_is_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut carrier = Carrier::new(false);
    let author = carrier.author.id();
    let flooder = Node::start(settings(63, 31));
    let (agent, run) = agent(directory.path(), &[&carrier.node, &flooder]);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let _ = tell.send(gettid().as_raw());
        runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run);
    });
    let thread = told.recv().expect("the thread says its name");
    let started = Instant::now();
    let flood = tokio::spawn(flood(flooder));

    let heard = async { while held(&agent, author).await.is_none() {} };
    timeout(PATIENCE, carrier.carry_until(heard)).await.expect("the author is heard at first");
    let paced = async { while counted(&agent, "mesh.paced").await < PACED {} };
    timeout(PATIENCE, carrier.carry_until(paced)).await.expect("the flooder is held back");

    let before = held(&agent, author).await;
    carrier.say(b"a change in the middle of the flood");
    let changed = async { while held(&agent, author).await == before {} };
    let since = Instant::now();
    timeout(PATIENCE, carrier.carry_until(changed)).await.expect("the author is heard in the flood");
    let took = since.elapsed();

    let read = counted(&agent, "mesh.messages_received").await;
    let seconds = started.elapsed().as_secs_f64();
    let share = spent(thread) as f64 / 1e9 / seconds;
    eprintln!("{read} messages read in {seconds:.1} s, {share:.2} of a core; a change came after {took:?}");
    // What the carrier says is a handful.
    assert!(read <= PACE.0 + (PACE.1 as f64 * seconds) as u64 + 200, "{read} messages in {seconds} s");
    assert!(!flood.is_finished(), "it goes on all the time");
    flood.abort();
}
