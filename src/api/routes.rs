//! Every path, in one table.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{
        Html, IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{delete, get, post, put},
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;

use super::{access, metrics, original};
use crate::{
    config::NetworkId,
    daemon::handle::{Command, Handle, Refusal, RefusalKind, Reply},
    election::{ClusterIdError, Role},
    identity::NodeId,
    node::snapshot::RoleOf,
};

/// The dashboard: one page, nothing from elsewhere.
const DASHBOARD: &str = include_str!("dashboard.html");
/// It runs its own script and style, and talks to us alone.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// No request of ours is longer.
const BODY: usize = 16 * 1024;

type Shared = State<Arc<super::State>>;

pub(super) fn router(state: Arc<super::State>) -> Router {
    Router::new()
        .route("/", get(dashboard))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(prometheus))
        .route(
            "/api/v1/status",
            get(|State(state): Shared| async move { Json((*state.handle.look().await).clone()) }),
        )
        .route(
            "/api/v1/nodes",
            get(|State(state): Shared| async move { Json(state.handle.look().await.members.clone()) }),
        )
        .route("/api/v1/nodes/{node}", delete(remove))
        .route("/api/v1/nodes/{node}/ban", post(ban))
        .route(
            "/api/v1/rotate",
            post(|State(state): Shared| async move { answer(state.handle.call(Command::Rotate).await) }),
        )
        .route("/api/v1/reset", post(reset))
        .route(
            "/api/v1/peers",
            get(|State(state): Shared| async move { Json(state.handle.look().await.peers.clone()) }),
        )
        .route(
            "/api/v1/cluster",
            get(|State(state): Shared| async move { Json(state.handle.look().await.cluster.clone()) }),
        )
        .route("/api/v1/cluster/join/{cluster}", post(join_cluster))
        .route("/api/v1/cluster/refound", post(refound))
        .route("/api/v1/roles", get(roles))
        .route("/api/v1/roles/{node}", put(set_role))
        .route("/api/v1/ping/{node}", post(ping))
        .route("/api/v1/kubeconfig", get(kubeconfig))
        .route("/api/v1/ledger", get(ledger))
        .route(
            "/api/v1/reload",
            post(|State(state): Shared| async move { answer(state.handle.call(Command::Reload).await) }),
        )
        .route("/api/v1/events", get(events))
        .merge(original::router())
        .fallback(|| async {
            access::refuse(
                StatusCode::NOT_FOUND,
                "there is nothing at this path; /api/v1/status is where to begin",
            )
        })
        .method_not_allowed_fallback(|| async {
            access::refuse(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(state)
}

async fn dashboard() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(DASHBOARD)).into_response()
}

async fn prometheus(State(state): Shared) -> Response {
    let text = metrics::text(&*state.handle.look().await);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn roles(State(state): Shared) -> Response {
    let snapshot = state.handle.look().await;
    let roles = snapshot.members.iter().filter(|member| !member.observer).map(RoleOf::from);
    Json(roles.collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize)]
struct WantedRole {
    role: Role,
}

async fn set_role(
    State(state): Shared,
    Path(node): Path<String>,
    Json(wanted): Json<WantedRole>,
) -> Response {
    match find(&state.handle, &node).await {
        Ok(node) => answer(state.handle.call(Command::SetRole { node, role: wanted.role }).await),
        Err(refusal) => answer(Err(refusal)),
    }
}

async fn remove(State(state): Shared, Path(node): Path<String>) -> Response {
    match find(&state.handle, &node).await {
        Ok(node) => answer(state.handle.call(Command::Remove { node }).await),
        Err(refusal) => answer(Err(refusal)),
    }
}

async fn join_cluster(State(state): Shared, Path(cluster): Path<String>) -> Response {
    match cluster.parse() {
        Ok(cluster_id) => answer(state.handle.call(Command::JoinCluster { cluster_id }).await),
        Err(error) => access::refuse(StatusCode::BAD_REQUEST, &ClusterIdError::to_string(&error)),
    }
}

#[derive(Deserialize)]
struct WantedBan {
    #[serde(default)]
    keep_token: bool,
}

async fn ban(State(state): Shared, Path(node): Path<String>, Json(wanted): Json<WantedBan>) -> Response {
    match find(&state.handle, &node).await {
        Ok(node) => answer(state.handle.call(Command::Ban { node, keep_token: wanted.keep_token }).await),
        Err(refusal) => answer(Err(refusal)),
    }
}

#[derive(Deserialize)]
struct WantedReset {
    #[serde(default)]
    new_identity: bool,
}

async fn reset(State(state): Shared, Json(wanted): Json<WantedReset>) -> Response {
    answer(state.handle.call(Command::Reset { new_identity: wanted.new_identity }).await)
}

#[derive(Deserialize)]
struct Refound {
    lose_the_old_one: bool,
}

async fn refound(State(state): Shared, Json(word): Json<Refound>) -> Response {
    if word.lose_the_old_one {
        return answer(state.handle.call(Command::Refound).await);
    }
    access::refuse(StatusCode::BAD_REQUEST, "the old cluster is lost by this: say `lose_the_old_one: true`")
}

async fn ping(State(state): Shared, Path(node): Path<String>) -> Response {
    match find(&state.handle, &node).await {
        Ok(node) => answer(state.handle.call(Command::Ping { node }).await),
        Err(refusal) => answer(Err(refusal)),
    }
}

/// A node by its id, the end of its id, its name, its uuid or its address.
async fn find(handle: &Handle, text: &str) -> Result<NodeId, Refusal> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let snapshot = handle.look().await;
    let fits = |member: &&crate::node::snapshot::Member| {
        member.name == text
            || member.uuid == text
            || member.id.short() == text
            || member.ipv4.is_some_and(|address| address.to_string() == text)
            || member.ipv6.to_string() == text
    };
    let found: Vec<NodeId> = snapshot.members.iter().filter(fits).map(|member| member.id).collect();
    let reason = match found.as_slice() {
        [one] => return Ok(*one),
        [] => format!("no member is called {text}; `c3os status` lists them"),
        several => format!("{} members are called {text}; use an id of `c3os status`", several.len()),
    };
    Err(Refusal { kind: RefusalKind::NotFound, reason })
}

#[derive(Deserialize)]
struct Which {
    network_id: Option<NetworkId>,
}

async fn kubeconfig(State(state): Shared, Query(which): Query<Which>) -> Response {
    answer(state.handle.call(Command::Kubeconfig { network_id: which.network_id }).await)
}

async fn ledger(State(state): Shared) -> Response {
    answer(state.handle.call(Command::Ledger).await)
}

/// Snapshots as they change, at most one every 200 ms, and what happens in between.
async fn events(State(state): Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let snapshots = stream::unfold((state.handle.watch(), true), |(mut watch, first)| async move {
        if !first {
            tokio::time::sleep(Duration::from_millis(200)).await;
            watch.changed().await.ok()?;
        }
        let snapshot = watch.borrow_and_update().clone();
        Some((Event::default().event("status").json_data(&*snapshot), (watch, false)))
    });
    let happenings = stream::unfold(state.handle.happenings(), |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(happening) => {
                    return Some((Event::default().event("happening").json_data(&happening), receiver));
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    let both = stream::select(snapshots, happenings).filter_map(|event| async move { event.ok().map(Ok) });
    Sse::new(both).keep_alive(KeepAlive::default())
}

/// A reply as JSON, or a refusal with the status that fits.
pub(super) fn answer(reply: Result<Reply, Refusal>) -> Response {
    match reply {
        Ok(Reply::Done) => Json(json!({ "done": true })).into_response(),
        Ok(Reply::Said(said)) => Json(json!({ "said": said })).into_response(),
        Ok(Reply::Pong(round_trip)) => {
            Json(json!({ "rtt_us": round_trip.as_micros() as u64 })).into_response()
        }
        Ok(Reply::Kubeconfig(text)) => {
            ([(header::CONTENT_TYPE, "application/yaml")], text.as_str().to_owned()).into_response()
        }
        Ok(Reply::Ledger(lines)) => Json(lines).into_response(),
        Err(refusal) => {
            let status = match refusal.kind {
                RefusalKind::NotFound => StatusCode::NOT_FOUND,
                RefusalKind::NotYet => StatusCode::SERVICE_UNAVAILABLE,
                RefusalKind::NotAllowed => StatusCode::FORBIDDEN,
                RefusalKind::Failed => StatusCode::BAD_GATEWAY,
            };
            (status, Json(json!({ "error": refusal.reason, "kind": refusal.kind }))).into_response()
        }
    }
}
