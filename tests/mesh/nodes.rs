//! A node under test.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use c3os::{
    identity::{Identity, NodeId},
    mesh::{Counters, Mesh, MeshEvent, MeshSettings},
    token::{Gate, NetworkKeys, NetworkToken},
};
use tokio::{sync::mpsc, time::timeout};

/// Far more than anything here takes, unless the test says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) id: NodeId,
    pub(crate) events: mpsc::Receiver<MeshEvent>,
}

pub(crate) fn keys(token: u8) -> NetworkKeys {
    NetworkToken::generate(&[token; 160], Vec::new()).expect("random bytes make a token").keys()
}

pub(crate) fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[seed; 32]))
}

/// A free port, no multicast DNS, nobody to dial.
pub(crate) fn settings(seed: u8, token: u8) -> MeshSettings {
    MeshSettings { listen_port: 0, mdns: false, ..MeshSettings::new(identity(seed), Gate::open(keys(token))) }
}

impl Node {
    pub(crate) fn start(settings: MeshSettings) -> Self {
        let id = settings.identity.id();
        let (mesh, events) = Mesh::start(settings).expect("the node starts");
        Self { mesh, id, events }
    }

    pub(crate) fn plain(seed: u8) -> Self {
        Self::start(settings(seed, 1))
    }

    /// A node that dials `others`.
    pub(crate) fn dialling(seed: u8, others: &[&Node]) -> Self {
        let static_peers = others.iter().map(|other| other.address().to_string()).collect();
        Self::start(MeshSettings { static_peers, ..settings(seed, 1) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.mesh.listen_port()))
    }

    pub(crate) async fn next(&mut self) -> MeshEvent {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event comes").expect("the mesh runs")
    }

    /// The next event that `wanted` makes something of.
    pub(crate) async fn wait<T>(&mut self, mut wanted: impl FnMut(&MeshEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the mesh runs");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("the event comes")
    }

    pub(crate) async fn up(&mut self, peer: NodeId) -> SocketAddr {
        self.wait(|event| match event {
            MeshEvent::PeerUp { id, address } if *id == peer => Some(*address),
            _ => None,
        })
        .await
    }

    pub(crate) async fn down(&mut self, peer: NodeId) {
        self.wait(|event| matches!(event, MeshEvent::PeerDown { id } if *id == peer).then_some(())).await;
    }

    pub(crate) async fn message(&mut self) -> (NodeId, Vec<u8>) {
        self.wait(|event| match event {
            MeshEvent::Message { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        })
        .await
    }

    /// Waits until the counters say so; they change with events on either side, none of which is ours to wait for.
    pub(crate) async fn counters_say(&self, wanted: impl Fn(&Counters) -> bool) -> Counters {
        let come = async {
            loop {
                let counters = self.mesh.counters();
                if wanted(&counters) {
                    return counters;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, come)
            .await
            .unwrap_or_else(|_| panic!("counters stay at {:?}", self.mesh.counters()))
    }
}
