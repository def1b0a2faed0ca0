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
pub(crate) struct Carrier {
    pub(crate) node: Node,
    pub(crate) author: Ledger,
    forges: bool,
}

impl Carrier {
    pub(crate) fn new(forges: bool) -> Self {
        let mut carrier = Self {
            node: Node::start(settings(61, 31)),
            author: Ledger::new(identity(62), [5; 32], Instant::now()),
            forges,
        };
        carrier.say(SAID);
        carrier
    }

    /// The author's next word.
    pub(crate) fn say(&mut self, word: &[u8]) {
        let key = KEY.parse().expect("a key");
        self.author.put(key, word.to_vec(), None, Instant::now()).expect("it fits");
    }

    /// Carries messages until `done` has come true.
    pub(crate) async fn carry_until(&mut self, done: impl Future<Output = ()>) {
        let mut done = std::pin::pin!(done);
        loop {
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
            let wake = self.author.poll_timeout().map(|(at, _)| at.into());
            tokio::select! {
                () = &mut done => return,
                event = self.node.events.recv() => match event.expect("the mesh runs") {
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
        }
    }
}

/// An agent that dials `others`, on a machine of its own, and the future that it runs in.
pub(crate) fn agent(
    directory: &std::path::Path,
    others: &[&Node],
) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    let token = NetworkToken::generate(&[31; 160], Vec::new()).expect("random bytes make a token");
    let mut config = Config {
        network_token: Some(TokenText::new(token.encode().to_string())),
        role: RoleSetting::None,
        ..Config::default()
    };
    config.vpn.create = false;
    (config.discovery.mdns, config.discovery.dht) = (false, false);
    config.discovery.bootstrap = others.iter().map(|other| other.address().to_string()).collect();
    let (handle, control) = daemon::channel();
    let root = Root::at(directory);
    let run = async move {
        // The test ends before the agent does.
        let _ = daemon::run(Purpose::Bridge(Box::new(config)), root, control).await;
    };
    (handle, run)
}

/// What the agent holds under the author's key.
pub(crate) async fn held(agent: &Handle, author: NodeId) -> Option<u64> {
    let Ok(Reply::Ledger(lines)) = agent.call(Command::Ledger).await else { return None };
    lines.iter().find(|line| line.author == author && line.key == KEY).map(|line| line.seq)
}

pub(crate) async fn counted(agent: &Handle, counter: &str) -> u64 {
    agent.look().await.counters.get(counter).copied().unwrap_or_default()
}

#[tokio::test]
async fn what_a_member_forges_is_refused_and_counted_and_the_author_is_heard_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut carrier = Carrier::new(true);
    let author = carrier.author.id();
    let (agent, run) = agent(directory.path(), &[&carrier.node]);
    tokio::spawn(run);
    let refused = async { while counted(&agent, "ledger.forged").await == 0 {} };
    timeout(PATIENCE, carrier.carry_until(refused)).await.expect("the forged entry is counted");
    assert_eq!(held(&agent, author).await, None);
    carrier.forges = false;
    let taken = async { while held(&agent, author).await.is_none() {} };
    timeout(PATIENCE * 3, carrier.carry_until(taken)).await.expect("the author's own word is taken");
}
