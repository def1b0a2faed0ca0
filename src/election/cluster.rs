//! What is decided by founding: one cluster.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::RegisterError;
use crate::{config::NetworkId, identity::NodeId};

/// The name of one founded cluster: 32 hexadecimal digits. Everything that belongs to a cluster is kept under it, so
/// that two clusters of one network id never overwrite each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; 16]);

/// A text that is no cluster id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id is the 32 hexadecimal digits that `c3os cluster show` prints")]
pub struct ClusterIdError;

impl ClusterId {
    /// Takes the 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.pad(&text)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl FromStr for ClusterId {
    type Err = ClusterIdError;

    fn from_str(text: &str) -> Result<Self, ClusterIdError> {
        let text = text.trim().as_bytes();
        if text.len() != 32 {
            return Err(ClusterIdError);
        }
        let mut bytes = [0; 16];
        for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(ClusterIdError);
            *byte = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Where k3s keeps the cluster's state. It says whether a second server can ever join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datastore {
    /// One server, for good.
    Sqlite,
    /// Servers replicate among themselves.
    Etcd,
    /// A database elsewhere (`auto.ha.external_db`).
    External,
}

/// The value of the decree: what the voters agreed on, and what every later fact of the cluster rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, new for every founding.
    pub cluster_id: ClusterId,
    /// Whose decree it is.
    pub network_id: NetworkId,
    /// 1 for the first founding; each `refound` raises it by one.
    pub generation: u32,
    /// The lost cluster, of the generation before, whose place this one takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<ClusterId>,
    /// The first server, and the lead.
    pub founder: NodeId,
    /// m: how many votes make it valid.
    pub minimum_nodes: u16,
    /// How many servers it shall have, the founder included.
    pub servers: u16,
    /// Where k3s keeps its state.
    pub datastore: Datastore,
    /// Overlay addresses of nodes known at the founding, at most [`Cluster::MAX_ADDRESSES`]; the founder's is among
    /// them if it had one. The others get theirs with their assignment.
    #[serde(with = "addresses")]
    pub addresses: BTreeMap<NodeId, Ipv4Addr>,
}

impl Cluster {
    /// Every voter carries the value in its register, so it must stay small: about 40 bytes for each address.
    pub const MAX_ADDRESSES: usize = 64;
}

/// A [`Cluster`] together with its encoded bytes. Registers and certificates carry the bytes as they were first made:
/// two values are the same if their bytes are, also for a program that does not know all fields. Cloning is cheap.
#[derive(Clone)]
pub struct Value {
    bytes: Arc<[u8]>,
    cluster: Arc<Cluster>,
}

impl Value {
    /// Encodes what shall be proposed.
    pub fn new(cluster: Cluster) -> Self {
        let bytes = crate::ledger::encode(&cluster).expect("a cluster is plain data");
        Self { bytes: bytes.into(), cluster: Arc::new(cluster) }
    }

    /// Reads a value out of a register or certificate.
    ///
    /// # Errors
    /// [`RegisterError::Value`] if it is no cluster, or one that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, RegisterError> {
        let cluster: Cluster = crate::ledger::decode(bytes).map_err(|_| RegisterError::Value)?;
        let possible = cluster.minimum_nodes >= 1
            && cluster.generation >= 1
            && (cluster.generation > 1) == cluster.supersedes.is_some()
            && cluster.servers >= 1
            && cluster.addresses.len() <= Cluster::MAX_ADDRESSES;
        if possible {
            Ok(Self { bytes: bytes.into(), cluster: Arc::new(cluster) })
        } else {
            Err(RegisterError::Value)
        }
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What they mean.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} by {:?})", self.cluster.cluster_id, self.cluster.founder)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = super::bytes::deserialize(deserializer)?;
        Self::parse(&bytes).map_err(D::Error::custom)
    }
}

/// Addresses as numbers: five bytes each instead of nine.
mod addresses {
    use super::{BTreeMap, Deserialize, Deserializer, Ipv4Addr, NodeId, Serializer};

    pub(super) fn serialize<S: Serializer>(
        addresses: &BTreeMap<NodeId, Ipv4Addr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(addresses.iter().map(|(id, address)| (id, u32::from(*address))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<NodeId, Ipv4Addr>, D::Error> {
        let numbers = BTreeMap::<NodeId, u32>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|(id, number)| (id, Ipv4Addr::from(number))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_read_as_it_is_printed() {
        let id = ClusterId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in ["", "ab", &"g".repeat(32), &"ä".repeat(16), &"a".repeat(33)] {
            assert_eq!(bad.parse::<ClusterId>(), Err(ClusterIdError), "{bad}");
        }
    }

    #[test]
    fn a_value_survives_its_encoding_and_a_cut_one_is_refused() {
        let founder = NodeId::from_bytes([1; 32]);
        let value = Value::new(Cluster {
            cluster_id: ClusterId::from_bytes([7; 16]),
            network_id: NetworkId::default(),
            generation: 1,
            supersedes: None,
            founder,
            minimum_nodes: 2,
            servers: 3,
            datastore: Datastore::Etcd,
            addresses: [(founder, Ipv4Addr::new(10, 1, 2, 3))].into(),
        });
        assert_eq!(Value::parse(value.bytes()).expect("it was just encoded").cluster(), value.cluster());
        for cut in 0..value.bytes().len() {
            assert_eq!(Value::parse(&value.bytes()[..cut]), Err(RegisterError::Value));
        }
        let nobody = Value::new(Cluster { minimum_nodes: 0, ..value.cluster().clone() });
        assert_eq!(Value::parse(nobody.bytes()), Err(RegisterError::Value));
        let heir = Value::new(Cluster { generation: 2, ..value.cluster().clone() });
        assert_eq!(Value::parse(heir.bytes()), Err(RegisterError::Value), "it supersedes nobody");
        let supersedes = Some(ClusterId::from_bytes([6; 16]));
        let heir = Value::new(Cluster { generation: 2, supersedes, ..value.cluster().clone() });
        assert_eq!(Value::parse(heir.bytes()).expect("it says whose heir it is"), heir);
    }
}
