//! What a node is in its cluster.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ClusterId;
use crate::identity::NodeId;

/// Server or worker. People read and type the original's `master` and `worker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Runs the control plane.
    #[serde(rename = "master", alias = "server")]
    Server,
    /// Runs workload only.
    #[serde(rename = "worker", alias = "agent")]
    Worker,
}

/// A text that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is `master` or `worker`")]
pub struct RoleError;

impl fmt::Display for Role {
    /// The original's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Server => "master",
            Self::Worker => "worker",
        })
    }
}

impl FromStr for Role {
    type Err = RoleError;

    /// Takes the original's words and k3s' (`server`, `agent`).
    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "master" | "server" => Ok(Self::Server),
            "worker" | "agent" => Ok(Self::Worker),
            _ => Err(RoleError),
        }
    }
}

/// What the lead made of one node: its word, written under `assignment/<network id>/<node id>`.
///
/// `address` and `name` are frozen from then on; a node configures k3s with nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Whom it is about.
    pub node: NodeId,
    /// Server or worker.
    pub role: Role,
    /// The cluster, as its certificate names it.
    pub cluster_id: ClusterId,
    /// The node's overlay address.
    pub address: Ipv4Addr,
    /// The node's name in Kubernetes, unique in the cluster.
    pub name: String,
    /// Epoch of the lead that wrote it; of two the higher one stands.
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_type_the_original_words_or_those_of_k3s() {
        for (text, role) in [
            ("master", Role::Server),
            ("server", Role::Server),
            ("worker", Role::Worker),
            ("agent", Role::Worker),
        ] {
            assert_eq!(text.parse(), Ok(role));
            assert_eq!(serde_json::from_str::<Role>(&format!("\"{text}\"")).expect("a role"), role);
        }
        assert_eq!("boss".parse::<Role>(), Err(RoleError));
        assert_eq!(Role::Server.to_string(), "master");
        assert_eq!(serde_json::to_string(&Role::Worker).expect("json"), "\"worker\"");
    }
}
