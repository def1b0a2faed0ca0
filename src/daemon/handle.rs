//! How the API and the verbs speak to the running agent: commands in, one answer each, snapshots and events out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::{config::NetworkId, election::Role, identity::NodeId, node::snapshot::Snapshot};

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
    /// All live ledger entries, secrets left out.
    Ledger,
    /// Read the configuration files again.
    Reload,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The round trip took so long.
    Pong(Duration),
    /// The kubeconfig, as YAML. It opens the cluster: never log it.
    Kubeconfig(Zeroizing<String>),
    /// Author, key, value as JSON.
    Ledger(BTreeMap<NodeId, BTreeMap<String, serde_json::Value>>),
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
    pub(super) commands: mpsc::Sender<(Command, oneshot::Sender<Result<Reply, Refusal>>)>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) happenings: broadcast::Sender<Happening>,
}

impl Handle {
    /// Has the agent carry out `command`.
    ///
    /// # Errors
    /// What the agent says against it, or that it is stopping.
    pub async fn call(&self, command: Command) -> Result<Reply, Refusal> {
        let stopping =
            || Refusal { kind: RefusalKind::NotYet, reason: "the agent is stopping; try again".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// The latest picture of this member.
    pub fn snapshot(&self) -> Arc<Snapshot> {
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
