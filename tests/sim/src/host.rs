//! One simulated machine: a disk that survives, and a member that runs on it between boots.

use std::{sync::Arc, time::Instant};

use c3os::{
    address::Lease,
    config::Config,
    identity::{Identity, NodeId},
    k3s::Applied,
    ledger::{Write, WriteKind},
    node::{Event, Kept, Node, Observed, RoleOrder, Settings},
    token::MeshId,
};

/// What a machine has on disk.
#[derive(Default, Clone)]
pub struct Disk {
    ledger: Option<Vec<u8>>,
    lease: Option<Lease>,
    applied: Option<Applied>,
    pinned: Option<Vec<u8>>,
}

/// How a disk looks after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCrash {
    /// Everything that was written is there.
    Kept,
    /// Of the write that was under way, this many thousandths are there.
    Torn(u16),
    /// The ledger is gone; the identity is not.
    LedgerLost,
}

/// One machine.
pub struct Host {
    pub name: String,
    pub config: Config,
    identity_seed: [u8; 32],
    mesh_id: MeshId,
    pub disk: Disk,
    pub node: Option<Node>,
    /// A write that the member asked for and that is not on disk yet.
    writing: Option<Write>,
    /// Every role order of this boot, the last one last.
    pub order: Option<RoleOrder>,
    pub boots: u32,
}

impl Host {
    pub fn new(number: u8, config: Config, mesh_id: MeshId, secret: u64) -> Self {
        let mut identity_seed = [number; 32];
        identity_seed[..8].copy_from_slice(&secret.to_be_bytes());
        Self {
            name: format!("n{number}"),
            config,
            identity_seed,
            mesh_id,
            disk: Disk::default(),
            node: None,
            writing: None,
            order: None,
            boots: 0,
        }
    }

    pub fn id(&self) -> NodeId {
        Identity::from_seed(&self.identity_seed).id()
    }

    pub fn boot(&mut self, seed: [u8; 32], now: Instant) {
        let settings = Settings {
            config: self.config.clone(),
            mesh_id: self.mesh_id,
            name: self.name.clone(),
            uuid: self.name.clone(),
            version: "sim".to_owned(),
            platform: "sim/sim".to_owned(),
            visitor: false,
        };
        let identity = Arc::new(Identity::from_seed(&self.identity_seed));
        let kept = Kept {
            ledger: self.disk.ledger.clone(),
            lease: self.disk.lease,
            applied: self.disk.applied.clone(),
            pinned: self.disk.pinned.clone(),
            new_identity: self.boots == 0,
        };
        let (node, _damage) = Node::new(settings, identity, kept, seed, now).expect("the subnet is fine");
        self.node = Some(node);
        self.boots += 1;
    }

    /// Power off at this very moment.
    pub fn crash(&mut self, after: AfterCrash) {
        self.node = None;
        self.order = None;
        let writing = self.writing.take();
        match (after, writing) {
            (AfterCrash::Torn(thousandths), Some(Write { kind: WriteKind::Append, bytes, .. })) => {
                let length = bytes.len() * usize::from(thousandths.min(1000)) / 1000;
                self.disk.ledger.get_or_insert_default().extend_from_slice(&bytes[..length]);
            }
            (AfterCrash::LedgerLost, _) => self.disk.ledger = None,
            (AfterCrash::Kept | AfterCrash::Torn(_), _) => {}
        }
    }

    /// Whether a crash now would tear a write.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether a crash now would tear a promise or a vote.
    pub fn is_voting(&self) -> bool {
        let register = b"acceptor/";
        self.writing
            .as_ref()
            .is_some_and(|write| write.bytes.windows(register.len()).any(|part| part == register))
    }

    /// Takes the member's next write up; it is on disk when [`Host::finish_write`] is called.
    pub fn start_write(&mut self) -> bool {
        if self.writing.is_some() {
            return false;
        }
        self.writing = self.node.as_mut().and_then(Node::poll_write);
        self.writing.is_some()
    }

    pub fn finish_write(&mut self, now: Instant) {
        match self.writing.take() {
            Some(Write { kind: WriteKind::Append, bytes, .. }) => {
                self.disk.ledger.get_or_insert_default().extend_from_slice(&bytes);
            }
            Some(Write { kind: WriteKind::Replace, bytes, .. }) => self.disk.ledger = Some(bytes),
            None => return,
        }
        if let Some(node) = &mut self.node {
            node.handle_written(now);
        }
    }

    /// Does what a driver does with events; applying a role always works here.
    pub fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.node.as_mut().and_then(Node::poll_event) {
            match event {
                Event::Lease(lease) => self.disk.lease = Some(lease),
                Event::Role(order) => {
                    let assignment = &order.assignment;
                    let applied = Applied {
                        role: assignment.role,
                        cluster_id: assignment.cluster_id,
                        epoch: assignment.epoch,
                        name: assignment.name.clone(),
                        address: assignment.address,
                    };
                    self.disk.applied = Some(applied.clone());
                    self.order = Some(*order);
                    if let Some(node) = &mut self.node {
                        node.handle_observed(Observed::Applied(applied), now);
                    }
                }
                Event::Pin(certificate) => {
                    self.disk.pinned = Some(certificate.clone());
                    if let Some(node) = &mut self.node {
                        node.handle_observed(Observed::Pinned(certificate), now);
                    }
                }
                Event::Members(_)
                | Event::LeaseChanged(_)
                | Event::Founded { .. }
                | Event::Liveness { .. }
                | Event::Assigned { .. } => {}
            }
        }
    }
}
