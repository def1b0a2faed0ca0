//! An admitted member that forges, against a whole agent: what it changes in the words of others has no effect.

use std::time::Instant;

use c3os::{
    config::{Config, RoleSetting, TokenText},
    daemon::{
        self, Purpose,
        handle::{Command, Handle, Reply},
    },
    host::Root,
    identity::NodeId,
    ledger::Ledger,
    mesh::MeshEvent,
    token::NetworkToken,
};
use tokio::time::{sleep_until, timeout};

use crate::nodes::{Node, PATIENCE, identity, settings};

const KEY: &str = "note/of-the-author";
const SAID: &[u8] = b"what its author said";
const FORGED: &[u8] = b"what a forger made!!";

/// A member that carries the words of `author`, and may change them on the way.
struct Carrier {
    node: Node,
    author: Ledger,
    forges: bool,
}

impl Carrier {
    fn new() -> Self {
        let now = Instant::now();
        let mut author = Ledger::new(identity(62), [5; 32], now);
        author.put(KEY.parse().expect("a key"), SAID.to_vec(), None, now).expect("it fits");
        Self { node: Node::start(settings(61, 31)), author, forges: true }
    }

    /// Carries messages until `done` has come true.
    async fn carry_until(&mut self, done: impl Future<Output = ()>) {
        let mut done = std::pin::pin!(done);
        loop {
            let wake = self.author.poll_timeout().map(|(at, _)| at.into());
            tokio::select! {
                () = &mut done => return,
                event = self.node.next() => match event {
                    MeshEvent::PeerUp { id, .. } => self.author.handle_neighbour_up(id, Instant::now()),
                    MeshEvent::PeerDown { id } => self.author.handle_neighbour_down(id, Instant::now()),
                    MeshEvent::Message { from, bytes } => {
                        self.author.handle_message(from, &bytes, Instant::now()).expect("the agent is honest");
                    }
                    _ => {}
                },
                () = async { sleep_until(wake.expect("polled only then")).await }, if wake.is_some() => {
                    self.author.handle_timeout(Instant::now());
                }
            }
            while self.author.poll_write().is_some() {
                self.author.handle_written(Instant::now());
            }
            while let Some((to, mut bytes)) = self.author.poll_message() {
                let said = bytes.windows(SAID.len()).position(|part| part == SAID).filter(|_| self.forges);
                if let Some(at) = said {
                    bytes[at..at + SAID.len()].copy_from_slice(FORGED);
                }
                // The connection may be gone; then it comes again.
                let _ = self.node.mesh.send(to, bytes);
            }
        }
    }
}

/// An agent that dials `carrier`, on a machine of its own.
fn agent(directory: &std::path::Path, carrier: &Node) -> Handle {
    let token = NetworkToken::generate(&[31; 160], Vec::new()).expect("random bytes make a token");
    let mut config = Config {
        network_token: Some(TokenText::new(token.encode().to_string())),
        role: RoleSetting::None,
        ..Config::default()
    };
    config.vpn.create = false;
    (config.discovery.mdns, config.discovery.dht) = (false, false);
    config.discovery.bootstrap = vec![carrier.address().to_string()];
    let (handle, control) = daemon::channel();
    let root = Root::at(directory);
    tokio::spawn(async move { daemon::run(Purpose::Bridge(Box::new(config)), root, control).await });
    handle
}

/// What the agent holds under the author's key.
async fn held(agent: &Handle, author: NodeId) -> Option<u64> {
    let Ok(Reply::Ledger(lines)) = agent.call(Command::Ledger).await else { return None };
    lines.iter().find(|line| line.author == author && line.key == KEY).map(|line| line.seq)
}

async fn forged(agent: &Handle) -> u64 {
    agent.look().await.counters.get("ledger.forged").copied().unwrap_or_default()
}

#[tokio::test]
async fn what_a_member_forges_is_refused_and_counted_and_the_author_is_heard_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut carrier = Carrier::new();
    let author = carrier.author.id();
    let agent = agent(directory.path(), &carrier.node);
    let refused = async { while forged(&agent).await == 0 {} };
    timeout(PATIENCE, carrier.carry_until(refused)).await.expect("the forged entry is counted");
    assert_eq!(held(&agent, author).await, None);
    carrier.forges = false;
    let taken = async { while held(&agent, author).await.is_none() {} };
    timeout(PATIENCE * 3, carrier.carry_until(taken)).await.expect("the author's own word is taken");
}
