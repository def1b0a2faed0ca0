//! An admitted member that lies: what it writes under its own name is whatever could do harm.

use std::{net::Ipv4Addr, sync::Arc, time::Instant};

use c3os::{
    config::NetworkId,
    election::{
        Acceptor, Assignment, Ballot, Certificate, Cluster, ClusterId, Proposer, Register, Role, Value,
    },
    identity::{Identity, NodeId},
    ledger::{Ledger, encode},
};
use serde::{Serialize, Serializer};

/// How many entries it floods others with; far more than one member may have.
const FLOOD: u32 = 100;

pub struct Liar {
    network_id: NetworkId,
    pub ledger: Ledger,
    /// How many members it has lied about.
    victims: usize,
}

/// A certificate as it goes over the wire (`src/election/certificate.rs`).
#[derive(Serialize)]
struct Forged {
    version: u32,
    value: Bytes,
    proposer: Cut,
    acceptors: Vec<Cut>,
}

#[derive(Serialize)]
struct Cut {
    before: Bytes,
    after: Bytes,
}

struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl Liar {
    pub fn new(identity: Arc<Identity>, network_id: NetworkId, seed: [u8; 32], now: Instant) -> Self {
        let mut liar = Self { network_id, ledger: Ledger::new(identity, seed, now), victims: 0 };
        liar.flood(now);
        liar
    }

    pub fn handle_message(&mut self, from: NodeId, bytes: &[u8], now: Instant) {
        // What others do wrong does not matter to a liar.
        let _ = self.ledger.handle_message(from, bytes, now);
        let victims: Vec<NodeId> = self.ledger.authors().collect();
        if victims.len() > self.victims {
            self.victims = victims.len();
            self.lie(&victims, now);
        }
        self.write(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.ledger.handle_timeout(now);
        self.write(now);
    }

    /// Its disk is as fast as can be.
    fn write(&mut self, now: Instant) {
        while self.ledger.poll_write().is_some() {
            self.ledger.handle_written(now);
        }
    }

    fn put(&mut self, key: &str, value: Vec<u8>, now: Instant) {
        if let Ok(key) = key.parse() {
            // A full ledger stops even a liar.
            let _ = self.ledger.put(key, value, None, now);
        }
    }

    fn flood(&mut self, now: Instant) {
        for number in 0..FLOOD {
            self.put(&format!("flood/{number}"), vec![number as u8; 4000], now);
        }
        self.write(now);
    }

    /// Assigns roles, asks for roles, spoils the certificate, asks for ballots in the founder's place.
    fn lie(&mut self, victims: &[NodeId], now: Instant) {
        let network_id = self.network_id.clone();
        let me = self.ledger.id();
        let key = Certificate::key(&network_id);
        let real: Option<Vec<u8>> = self.ledger.with_prefix(&key).map(|entry| entry.value().to_vec()).next();
        let Some(real) = real else { return };
        let Ok(certificate) = Certificate::parse(&real) else { return };
        let mut spoilt = real.clone();
        if let Some(byte) = spoilt.get_mut(real.len() / 2) {
            *byte ^= 1;
        }
        self.put(&key, spoilt, now);
        let cluster = certificate.cluster();
        for victim in victims {
            let assignment = Assignment {
                node: *victim,
                role: Role::Server,
                cluster_id: cluster.cluster_id,
                address: Ipv4Addr::new(10, 1, 0, 66),
                name: "mine".to_owned(),
                epoch: 1000,
            };
            if let Ok(bytes) = encode(&assignment) {
                self.put(&format!("assignment/{network_id}/{victim}"), bytes, now);
            }
            if let Ok(bytes) = encode(&Role::Server) {
                self.put(&format!("request/{network_id}/{victim}"), bytes, now);
            }
            self.put(&format!("secret/{network_id}/{victim}"), vec![7; 200], now);
        }
        let cluster_id = ClusterId::from_bytes([0x66; 16]);
        let forged = Value::new(Cluster { cluster_id, founder: me, ..cluster.clone() });
        let ballot = Ballot { round: u64::MAX, node: me };
        let asked = Proposer { ballot, minimum_nodes: cluster.minimum_nodes, value: Some(forged.clone()) };
        self.put(&Proposer::key(&network_id), asked.encode(), now);
        let accepted = Some((ballot, forged.clone()));
        let answered = Acceptor { promised: Some(ballot), accepted, ..Acceptor::fresh(1) };
        self.put(&Acceptor::key(&network_id), answered.encode(), now);
        self.write(now);
        self.forge(&forged, now);
    }

    /// In the end its certificate is one that its own vote alone proves, where more are needed. Where one is enough that
    /// would be a cluster like any other.
    fn forge(&mut self, value: &Value, now: Instant) {
        if value.cluster().minimum_nodes <= 1 {
            return;
        }
        let me = self.ledger.id();
        let cut = |key: String| {
            let entry = self.ledger.get(me, &key)?.to_bytes();
            let at = entry.windows(value.bytes().len()).position(|window| window == value.bytes())?;
            Some(Cut {
                before: Bytes(entry[..at].to_vec()),
                after: Bytes(entry[at + value.bytes().len()..].to_vec()),
            })
        };
        let network_id = &self.network_id;
        let (Some(proposer), Some(vote)) = (cut(Proposer::key(network_id)), cut(Acceptor::key(network_id)))
        else {
            return;
        };
        let value = Bytes(value.bytes().to_vec());
        if let Ok(bytes) = encode(&Forged { version: 1, value, proposer, acceptors: vec![vote] }) {
            self.put(&Certificate::key(&self.network_id.clone()), bytes, now);
        }
    }
}
