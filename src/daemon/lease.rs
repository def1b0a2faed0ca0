//! Keeps asking this server's own API: for the Lease, for its node, and what the lead wants of it.
//!
//! One task, on servers only. It ends with the agent; what it saw goes to the node.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    election::{Bid, Campaign, HeldLease, RENEW_LEASE},
    host::{self, Root},
    identity::NodeId,
    kube::{Connection, KubeError, Written},
    node::Observed,
};

/// How often a server without a running API looks whether there is one.
const LOOK: Duration = Duration::from_secs(2);

/// What the task has to know of the node's part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Office {
    /// This server's name in Kubernetes; none: this machine is no server, or there is nothing to ask.
    pub(super) name: Option<String>,
    /// The cluster can have several servers, so there is a Lease.
    pub(super) several: bool,
    /// Somebody wants to know whether the cluster runs workload.
    pub(super) idle: bool,
    /// The highest epoch that the ledger knows.
    pub(super) epoch: u64,
    /// We are the lead of it.
    pub(super) ours: bool,
    /// A server that Kubernetes shall let go of, and its name there.
    pub(super) remove: Option<(NodeId, String)>,
}

/// Follows what the sender says.
pub(super) fn keep(root: Root, me: NodeId, seen: mpsc::Sender<Observed>) -> watch::Sender<Office> {
    let (sender, office) = watch::channel(Office::default());
    let clerk =
        Clerk { root, me, campaign: Campaign::new(me.to_string()), seen, removed: None, voting: None };
    tokio::spawn(clerk.run(office));
    sender
}

struct Clerk {
    root: Root,
    me: NodeId,
    campaign: Campaign,
    seen: mpsc::Sender<Observed>,
    removed: Option<NodeId>,
    voting: Option<bool>,
}

impl Clerk {
    async fn run(mut self, mut office: watch::Receiver<Office>) {
        loop {
            let now = office.borrow_and_update().clone();
            let Some(name) = now.name.clone() else {
                if office.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let pause = match self.round(&name, &now).await {
                // Until it is ready it changes, and others wait for it.
                Ok(true) => RENEW_LEASE,
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::debug!(%error, "The API server was not asked");
                    LOOK
                }
            };
            self.tell_lease().await;
            let next = Instant::now() + pause;
            tokio::select! {
                changed = office.changed() => if changed.is_err() { return },
                () = time::sleep_until(next) => {}
            }
        }
    }

    /// Asks everything once; whether this server is ready.
    async fn round(&mut self, name: &str, office: &Office) -> Result<bool, KubeError> {
        let root = self.root.clone();
        let kubeconfig = tokio::task::spawn_blocking(move || host::kubeconfig(&root)).await;
        let Ok(Ok(Some(kubeconfig))) = kubeconfig else { return Ok(false) };
        let api = Connection::new(&kubeconfig)?;
        if office.idle {
            self.say(Observed::Idle(api.is_idle().await?)).await;
        }
        if !office.several {
            return Ok(true);
        }
        self.bid(&api, office).await?;
        let health = api.node(name).await?;
        let voting = health.is_some_and(|health| health.ready && health.votes != Some(false));
        if self.voting.replace(voting) != Some(voting) {
            self.say(Observed::Voting(voting)).await;
        }
        if let Some((node, name)) = &office.remove
            && self.removed != Some(*node)
            && self.campaign.held(Instant::now().into()).is_some()
        {
            match api.remove_node(name).await {
                Ok(()) => {
                    tracing::warn!(%node, name, "Kubernetes let go of a server");
                    self.removed = Some(*node);
                    self.say(Observed::ServerRemoved(*node)).await;
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "Kubernetes does not let go of a server");
                    self.say(Observed::ServerNotRemoved(*node)).await;
                }
            }
        }
        Ok(voting)
    }

    /// Takes, keeps or watches the Lease.
    async fn bid(&mut self, api: &Connection, office: &Office) -> Result<(), KubeError> {
        let found = api.lease().await?;
        let (record, version) = found.map_or((None, None), |(record, version)| (Some(record), Some(version)));
        match self.campaign.handle_seen(record, office.epoch, office.ours, Instant::now().into()) {
            Bid::Watch => {}
            Bid::Write { transitions } => {
                let written = api.write_lease(version.as_ref(), &self.me.to_string(), transitions).await;
                self.campaign.handle_written(matches!(written, Ok(Written::Done)));
                written?;
            }
        }
        Ok(())
    }

    async fn tell_lease(&self) {
        let lease: Option<HeldLease> = self.campaign.held(Instant::now().into());
        self.say(Observed::Lease(lease)).await;
    }

    async fn say(&self, observed: Observed) {
        // The receiver is gone only when the agent stops.
        let _ = self.seen.send(observed).await;
    }
}
