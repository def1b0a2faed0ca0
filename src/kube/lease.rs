//! The Lease `kube-system/c3os-lead` (`coordination.k8s.io/v1`).

use axum::http::Method;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{Connection, KubeError};
use crate::election::{LEASE_DURATION, LeaseRecord};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const NAME: &str = "c3os-lead";
/// Kubernetes' MicroTime.
const MICRO_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Which version of the Lease was seen, so that a change is refused if somebody was quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// Somebody else had changed or made it meanwhile.
    Overtaken,
}

impl Connection {
    /// The Lease as it is; none if there is none.
    ///
    /// # Errors
    /// [`KubeError`].
    pub async fn lease(&self) -> Result<Option<(LeaseRecord, Version)>, KubeError> {
        let Some(lease) = self.get(&format!("{LEASES}/{NAME}")).await? else { return Ok(None) };
        let text =
            |pointer: &str| lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let version = text("/metadata/resourceVersion");
        if version.is_empty() {
            return Err(KubeError::Answer("a Lease without a version"));
        }
        let record = LeaseRecord {
            holder: text("/spec/holderIdentity"),
            transitions: lease.pointer("/spec/leaseTransitions").and_then(Value::as_u64).unwrap_or(0),
            renewed: text("/spec/renewTime"),
        };
        Ok(Some((record, Version(version))))
    }

    /// Makes the Lease ours, or keeps it: over the version that was seen, or as a new one.
    ///
    /// # Errors
    /// [`KubeError`].
    pub async fn write_lease(
        &self,
        seen: Option<&Version>,
        holder: &str,
        transitions: u64,
    ) -> Result<Written, KubeError> {
        let now = OffsetDateTime::now_utc()
            .format(MICRO_TIME)
            .map_err(|_| KubeError::Answer("nothing: this machine's clock shows no date"))?;
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": NAME, "namespace": "kube-system" },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": LEASE_DURATION.as_secs(),
                "leaseTransitions": transitions,
                "renewTime": now,
            },
        });
        let taken = match seen {
            Some(Version(version)) => {
                lease["metadata"]["resourceVersion"] = json!(version);
                self.put(Method::PUT, &format!("{LEASES}/{NAME}"), &lease).await?
            }
            None => self.put(Method::POST, LEASES, &lease).await?,
        };
        Ok(if taken { Written::Done } else { Written::Overtaken })
    }
}
