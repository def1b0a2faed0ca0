//! The read endpoints of the original's API, with its paths and shapes, so that existing scripts go on working.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::access;
use crate::{
    election::Role,
    node::snapshot::{Member, Snapshot},
};

type Shared = State<Arc<super::State>>;
type Buckets = BTreeMap<String, BTreeMap<String, String>>;

/// Keys that the original kept secrets under, in the clear.
const SECRETS: [(&str, &str); 2] = [
    ("master-kubeconfig", "the kubeconfig is no longer in the ledger: use `c3os get-kubeconfig`"),
    ("token-nodetoken", "k3s' token is no longer in the ledger: nodes get it sealed, and nobody else does"),
];

pub(super) fn router() -> Router<Arc<super::State>> {
    Router::new()
        .route(
            "/api/machines",
            get(|State(state): Shared| async move { Json(machines(&*state.handle.look().await)) }),
        )
        .route(
            "/api/nodes",
            get(|State(state): Shared| async move { Json(nodes(&*state.handle.look().await)) }),
        )
        .route(
            "/api/summary",
            get(|State(state): Shared| async move { Json(summary(&*state.handle.look().await)) }),
        )
        .route("/api/dns", get(|| async { Json(json!([])) }))
        .route(
            "/api/ledger",
            get(|State(state): Shared| async move { Json(buckets(&*state.handle.look().await)) }),
        )
        .route("/api/ledger/{bucket}", get(bucket))
        .route("/api/ledger/{bucket}/{key}", get(key))
}

fn machines(snapshot: &Snapshot) -> Value {
    let machine = |member: &Member| {
        let (os, arch) = member.platform.split_once('/').unwrap_or((&member.platform, ""));
        json!({
            "PeerID": member.id,
            "Hostname": member.name,
            "OS": os,
            "Arch": arch,
            "Address": member.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            "Version": member.version,
            "Connected": member.live,
            "OnChain": true,
            "Online": member.live,
        })
    };
    snapshot.members.iter().map(machine).collect()
}

fn nodes(snapshot: &Snapshot) -> Value {
    let live = snapshot.members.iter().filter(|member| member.live);
    live.map(|member| json!({ "ID": member.id, "Online": true })).collect()
}

fn summary(snapshot: &Snapshot) -> Value {
    json!({
        "Files": 0,
        "Machines": snapshot.members.len(),
        "Users": 0,
        "Services": 0,
        "BlockChain": 0,
        "OnChainNodes": snapshot.members.len(),
        "Peers": snapshot.members.iter().filter(|member| member.live && member.id != snapshot.node.id).count(),
        "NodeID": snapshot.node.id,
    })
}

/// The original's buckets, filled from what stands for them here. Its values are JSON in a string.
fn buckets(snapshot: &Snapshot) -> Buckets {
    let mut buckets = Buckets::new();
    let quoted = |text: &str| Value::from(text).to_string();
    for member in &snapshot.members {
        let cluster = buckets.entry(member.network_id.to_string()).or_default();
        if let Some(role) = member.role {
            cluster.insert(format!("{}-role", member.uuid), quoted(&role.to_string()));
            if let (Role::Server, Some(address)) = (role, member.ipv4) {
                cluster.insert("ip-master".to_owned(), quoted(&address.to_string()));
            }
        }
        if let Some(address) = member.ipv4 {
            let machine = json!({ "PeerID": member.id, "Hostname": member.name, "Address": address });
            buckets
                .entry("machines".to_owned())
                .or_default()
                .insert(address.to_string(), machine.to_string());
        }
    }
    buckets
}

async fn bucket(State(state): Shared, Path(bucket): Path<String>) -> Response {
    Json(buckets(&*state.handle.look().await).remove(&bucket).unwrap_or_default()).into_response()
}

async fn key(State(state): Shared, Path((bucket, key)): Path<(String, String)>) -> Response {
    if let Some((_, why)) = SECRETS.iter().find(|(secret, _)| *secret == key) {
        return access::refuse(StatusCode::FORBIDDEN, why);
    }
    let mut buckets = buckets(&*state.handle.look().await);
    Json(buckets.get_mut(&bucket).and_then(|bucket| bucket.remove(&key)).unwrap_or_default()).into_response()
}
