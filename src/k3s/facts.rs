//! What a plan is made from, besides the configuration and the assignment.

use std::net::Ipv4Addr;

use super::{CaHash, Secret};

/// What is known of the cluster that a node belongs to. Everything here is in the ledger or was opened from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// The server to join: its overlay address, or its LAN address where k3s does not use the overlay. None on the
    /// founder, which joins nobody.
    pub server_address: Option<Ipv4Addr>,
    /// That server once said it was up. It stays true when the server is away later.
    pub server_up: bool,
    /// Hash of the server's CA, as that server observed it.
    pub ca_hash: Option<CaHash>,
    /// Full administration: servers only.
    pub server_token: Option<Secret>,
    /// Lets a worker join.
    pub agent_token: Option<Secret>,
}

/// The program that starts services on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceManager {
    /// systemd.
    Systemd,
    /// OpenRC.
    OpenRc,
    /// None that we know.
    None,
}

/// What a plan has to know of the machine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Who starts services.
    pub services: ServiceManager,
    /// Absolute path of the k3s binary; none: not installed, and the usual place is written down.
    pub k3s_binary: Option<String>,
    /// The machine's address on the LAN, for k3s outside the overlay; none: k3s finds it.
    pub lan_address: Option<Ipv4Addr>,
    /// The clock shows a time before this program was built.
    pub clock_before_build: bool,
    /// k3s has run as a server here: its certificates exist.
    pub k3s_has_state: bool,
}
