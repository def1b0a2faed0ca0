//! How the API and the verbs speak to the running agent: commands in, one answer each, snapshots and events out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::{
    config::NetworkId,
    election::{ClusterId, Role},
    identity::NodeId,
    node::snapshot::Snapshot,
};

/// What somebody asks the agent to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask the lead to give `node` another role; answered when the fact holds or was refused.
    SetRole {
        /// The node.
        node: NodeId,
        /// Its role from now on.
        role: Role,
    },
    /// Have this machine go to another cluster of its network id.
    JoinCluster {
        /// Which one.
        cluster_id: ClusterId,
    },
    /// Found a cluster in the place of this machine's, whose servers are lost for good.
    Refound,
    /// One round trip to `node` through the data plane.
    Ping {
        /// The node.
        node: NodeId,
    },
    /// The kubeconfig of a cluster, with the server's address on the mesh.
    Kubeconfig {
        /// Which cluster of the mesh; none: the only one there is.
        network_id: Option<NetworkId>,
    },
    /// Replace the network token; answered when it has begun.
    Rotate,
    /// Forget a node that is gone, in Kubernetes too.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Never let a node in again, and replace what it knows.
    Ban {
        /// The node.
        node: NodeId,
        /// Replace nothing.
        keep_token: bool,
    },
    /// Leave the cluster; the agent goes on as a machine without one.
    Reset {
        /// As a new member.
        new_identity: bool,
    },
    /// All live ledger entries, secrets left out.
    Ledger,
    /// Draw the picture of this member anew.
    Look,
    /// Read the configuration files again.
    Reload,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is done.
    Done,
    /// It is done; what is to be known of it, in sentences.
    Said(Vec<String>),
    /// The round trip took so long.
    Pong(Duration),
    /// The kubeconfig, as YAML. It opens the cluster: never log it.
    Kubeconfig(Zeroizing<String>),
    /// Author, key, value as JSON.
    Ledger(Vec<LedgerLine>),
}

/// One entry of the ledger, to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// Who says it.
    pub author: NodeId,
    /// The number of its write.
    pub seq: u64,
    /// Under which key.
    pub key: String,
    /// What, as JSON; none for secrets and for what JSON cannot say.
    pub value: Option<serde_json::Value>,
    /// Size of the signed entry.
    pub bytes: usize,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Whose turn it is to change something.
    pub kind: RefusalKind,
    /// In words, with the fix.
    pub reason: String,
}

/// Whose turn it is after a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// There is no such node, cluster or key.
    NotFound,
    /// It cannot be had yet; asking again later may help.
    NotYet,
    /// The asker may not, or the cluster's rules forbid it.
    NotAllowed,
    /// It was tried and did not work.
    Failed,
}

/// Something that happened, for `/api/v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// A name such as `peer-up`, `founded`, `role-assigned`, `role-applied`.
    pub name: String,
    /// Its details.
    pub details: BTreeMap<String, String>,
}

/// The way to a running agent. Cheap to clone; it outlives the agent, then every call is refused.
#[derive(Debug, Clone)]
pub struct Handle {
    calls: mpsc::Sender<Call>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    happenings: broadcast::Sender<Happening>,
}

impl Handle {
    /// Has the agent carry out `command`.
    ///
    /// # Errors
    /// What the agent says against it, or that it is stopping.
    pub async fn call(&self, command: Command) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Refusal::not_yet("the agent is stopping or starting; try again");
        self.calls.send(Call { command, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// The picture of this member as it is now, paths and counters included; the last one if the agent is busy ending.
    pub async fn look(&self) -> Arc<Snapshot> {
        // Refused only when there is nothing newer to see.
        let _ = self.call(Command::Look).await;
        self.snapshot.borrow().clone()
    }

    /// Follows the pictures as they change.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Follows what happens from now on; a slow reader misses the oldest.
    pub fn happenings(&self) -> broadcast::Receiver<Happening> {
        self.happenings.subscribe()
    }
}

/// The daemon's end of a [`Handle`].
pub struct Control {
    calls: mpsc::Receiver<Call>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    happenings: broadcast::Sender<Happening>,
    /// Kept so that waiting for calls never ends.
    _open: mpsc::Sender<Call>,
}

/// One command that waits for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Result<Reply, Refusal>>,
}

pub(super) fn channel(first: Snapshot) -> (Handle, Control) {
    let (sender, calls) = mpsc::channel(16);
    let (snapshot, watched) = watch::channel(Arc::new(first));
    let (happenings, _) = broadcast::channel(256);
    let handle = Handle { calls: sender.clone(), snapshot: watched, happenings: happenings.clone() };
    (handle, Control { calls, snapshot, happenings, _open: sender })
}

impl Control {
    /// The next call.
    pub(super) async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }

    pub(super) fn show(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.send_replace(snapshot);
    }

    pub(super) fn tell<const N: usize>(&self, name: &str, details: [(&str, String); N]) {
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        // Nobody listening is the usual case.
        let _ = self.happenings.send(Happening { name: name.to_owned(), details });
    }
}

impl Call {
    pub(super) fn answer(self, answer: Result<Reply, Refusal>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }

    pub(super) fn is_reload(&self) -> bool {
        self.command == Command::Reload
    }

    pub(super) fn is_reset(&self) -> bool {
        matches!(self.command, Command::Reset { .. })
    }

    /// Answers on a machine that is on no mesh; whether it was asked to read its configuration again.
    pub(super) fn refuse_without_mesh(self) -> bool {
        let reload = self.is_reload();
        let answer = match self.command {
            Command::Reload | Command::Look => Ok(Reply::Done),
            Command::SetRole { .. }
            | Command::Ping { .. }
            | Command::Kubeconfig { .. }
            | Command::Rotate
            | Command::Remove { .. }
            | Command::Ban { .. }
            | Command::Reset { .. }
            | Command::JoinCluster { .. }
            | Command::Refound
            | Command::Ledger => Err(Refusal::not_yet("this machine is on no mesh: `c3os status` says why")),
        };
        let _ = self.reply.send(answer);
        reload
    }
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    pub(super) fn not_yet(reason: impl Into<String>) -> Self {
        Self::new(RefusalKind::NotYet, reason)
    }
}
