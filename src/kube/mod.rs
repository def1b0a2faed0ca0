//! What a server asks of its own Kubernetes API: the Lease that names the lead, its node's health, and to let go of a
//! dead server. The way in is the administrator's kubeconfig that k3s leaves on every server.
//!
//! A connection is made for each question: they come every few seconds, and only on servers of a cluster that has
//! several. ring is the crypto provider, as everywhere.

mod connection;
mod lease;

use serde_json::Value;

pub use connection::{Connection, KubeError};
pub use lease::{Version, Written};

/// How a node is, as its own API server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeHealth {
    /// Its kubelet says Ready.
    pub ready: bool,
    /// k3s says that it votes in etcd; none where k3s says nothing about that: its state is not in etcd.
    pub votes: Option<bool>,
}

impl Connection {
    /// How the node called `name` is; none if there is no such node.
    ///
    /// # Errors
    /// [`KubeError`], as for every question.
    pub async fn node(&self, name: &str) -> Result<Option<NodeHealth>, KubeError> {
        let Some(node) = self.get(&format!("/api/v1/nodes/{name}")).await? else { return Ok(None) };
        Ok(Some(health(&node)))
    }

    /// Has Kubernetes let go of the node called `name`; k3s then takes its member out of etcd. One that is not there
    /// is let go of.
    ///
    /// # Errors
    /// [`KubeError`].
    pub async fn remove_node(&self, name: &str) -> Result<(), KubeError> {
        self.delete(&format!("/api/v1/nodes/{name}")).await
    }

    /// Has Kubernetes forget a machine that is gone: its node, and the secret with its password, so that a machine of
    /// the same name may join again.
    ///
    /// # Errors
    /// [`KubeError`].
    pub async fn forget_machine(&self, name: &str) -> Result<(), KubeError> {
        self.remove_node(name).await?;
        self.delete(&format!("/api/v1/namespaces/kube-system/secrets/{name}.node-password.k3s")).await
    }

    /// Whether the cluster runs nothing but what k3s brings along: no pod outside of `kube-system`.
    ///
    /// # Errors
    /// [`KubeError`].
    pub async fn is_idle(&self) -> Result<bool, KubeError> {
        let path = "/api/v1/pods?limit=1&fieldSelector=metadata.namespace%21%3Dkube-system";
        let pods = self.get(path).await?.unwrap_or_default();
        let items = pods.get("items").and_then(Value::as_array);
        items.map(Vec::is_empty).ok_or(KubeError::Answer("a list of pods without items"))
    }
}

fn health(node: &Value) -> NodeHealth {
    let condition = |kind: &str| {
        let conditions = node.pointer("/status/conditions")?.as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some(found["status"] == "True")
    };
    // k3s' own condition: False while the member is a learner.
    NodeHealth { ready: condition("Ready").unwrap_or(false), votes: condition("EtcdIsVoter") }
}

#[cfg(test)]
mod tests;
