//! The typed client: what the verbs and the tests use.

use std::{path::PathBuf, time::Duration};

use reqwest::{Method, Response, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::usual_address;
use crate::{
    config::NetworkId,
    daemon::handle::{LedgerLine, Refusal, RefusalKind},
    election::{ClusterId, Role},
    node::snapshot::Snapshot,
};

/// Where the agent's and the bridge's socket is.
pub const SOCKET: &str = "/run/c3os/api.sock";
/// An agent that does not answer for so long is stuck.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A way to the agent or bridge of this machine.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    place: String,
}

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens.
    #[error(
        "no agent answers at {place} ({why}); on a machine: `systemctl start c3os-agent`; on a laptop keep \
         `sudo c3os bridge --network-token TOKEN` open"
    )]
    NotRunning {
        /// Where.
        place: String,
        /// What the system says.
        why: String,
    },
    /// It answered, and said no.
    #[error("{0}")]
    Refused(Refusal),
    /// It answered something that cannot be read.
    #[error("the answer of {place} cannot be read: {why}")]
    Answer {
        /// Who answered.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// `--api` is no address.
    #[error("--api {0}: use unix:///PATH or http://HOST:PORT")]
    Address(String),
}

#[derive(Deserialize)]
struct Error {
    error: String,
    #[serde(default)]
    kind: Option<RefusalKind>,
}

impl Client {
    /// The client for `--api`: `unix:///path` or `http://host:port`; none: the usual socket, or where there is none,
    /// the usual port.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub fn find(api: Option<&str>) -> Result<Self, ClientError> {
        match api {
            None if std::path::Path::new(SOCKET).exists() => Self::unix(PathBuf::from(SOCKET)),
            None => Self::tcp(&format!("http://{}", usual_address())),
            Some(text) => match text.strip_prefix("unix://") {
                Some(path) => Self::unix(PathBuf::from(path)),
                None if text.starts_with("http://") => Self::tcp(text),
                // The original's flag takes `127.0.0.1:8080` too.
                None if text.parse::<std::net::SocketAddr>().is_ok() => Self::tcp(&format!("http://{text}")),
                None => Err(ClientError::Address(text.to_owned())),
            },
        }
    }

    fn unix(path: PathBuf) -> Result<Self, ClientError> {
        let place = path.display().to_string();
        let builder = reqwest::Client::builder().unix_socket(path);
        Self::build(builder, "http://localhost".to_owned(), place)
    }

    fn tcp(url: &str) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        Self::build(reqwest::Client::builder().no_proxy(), base.clone(), base)
    }

    fn build(builder: reqwest::ClientBuilder, base: String, place: String) -> Result<Self, ClientError> {
        let http = builder
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| ClientError::NotRunning { place: place.clone(), why: error.to_string() })?;
        Ok(Self { http, base, place })
    }

    /// The picture of this member.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn status(&self) -> Result<Snapshot, ClientError> {
        self.json(Method::GET, "/api/v1/status", None).await
    }

    /// One round trip to a node (id, name, uuid or address) through the data plane.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn ping(&self, node: &str) -> Result<Duration, ClientError> {
        #[derive(Deserialize)]
        struct Pong {
            rtt_us: u64,
        }
        let pong: Pong = self.json(Method::POST, &format!("/api/v1/ping/{node}"), None).await?;
        Ok(Duration::from_micros(pong.rtt_us))
    }

    /// Has the lead give a node another role; returns when it stands.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_role(&self, node: &str, role: Role) -> Result<(), ClientError> {
        let wanted = json!({ "role": role });
        self.json::<Value>(Method::PUT, &format!("/api/v1/roles/{node}"), Some(wanted)).await.map(drop)
    }

    /// Has the lead forget a node that is gone; what is to be known of it, in sentences.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn remove_node(&self, node: &str) -> Result<Vec<String>, ClientError> {
        self.said(Method::DELETE, &format!("/api/v1/nodes/{node}"), None).await
    }

    /// Has the lead ban a node, and replace what it knows unless `keep_token`; as [`Client::remove_node`].
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn ban_node(&self, node: &str, keep_token: bool) -> Result<Vec<String>, ClientError> {
        let wanted = json!({ "keep_token": keep_token });
        self.said(Method::POST, &format!("/api/v1/nodes/{node}/ban"), Some(wanted)).await
    }

    /// Has the lead replace the network token; returns when that has begun.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn rotate(&self) -> Result<Vec<String>, ClientError> {
        self.said(Method::POST, "/api/v1/rotate", None).await
    }

    /// Has this machine leave its cluster; it begins when this returns.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn reset(&self, new_identity: bool) -> Result<(), ClientError> {
        let wanted = json!({ "new_identity": new_identity });
        self.json::<Value>(Method::POST, "/api/v1/reset", Some(wanted)).await.map(drop)
    }

    async fn said(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Said {
            said: Vec<String>,
        }
        self.json::<Said>(method, path, body).await.map(|answer| answer.said)
    }

    /// Has this machine go to another cluster.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn join_cluster(&self, cluster_id: ClusterId) -> Result<(), ClientError> {
        self.json::<Value>(Method::POST, &format!("/api/v1/cluster/join/{cluster_id}"), None).await.map(drop)
    }

    /// Has a cluster founded in the place of this machine's, which is lost by that.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn refound(&self) -> Result<(), ClientError> {
        let word = json!({ "lose_the_old_one": true });
        self.json::<Value>(Method::POST, "/api/v1/cluster/refound", Some(word)).await.map(drop)
    }

    /// The kubeconfig of a cluster.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn kubeconfig(&self, network_id: Option<&NetworkId>) -> Result<Zeroizing<String>, ClientError> {
        let query = network_id.map(|id| format!("?network_id={id}")).unwrap_or_default();
        let response = self.send(Method::GET, &format!("/api/v1/kubeconfig{query}"), None).await?;
        response.text().await.map(Zeroizing::new).map_err(|error| self.unreadable(&error))
    }

    /// What everybody says in the ledger.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn ledger(&self) -> Result<Vec<LedgerLine>, ClientError> {
        self.json(Method::GET, "/api/v1/ledger", None).await
    }

    /// Has the agent read its configuration again.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn reload(&self) -> Result<(), ClientError> {
        self.json::<Value>(Method::POST, "/api/v1/reload", None).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        response.json().await.map_err(|error| self.unreadable(&error))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response, ClientError> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), root_cause);
            ClientError::NotRunning { place: self.place.clone(), why: cause }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let kind = match status {
            StatusCode::NOT_FOUND => RefusalKind::NotFound,
            StatusCode::FORBIDDEN => RefusalKind::NotAllowed,
            _ => RefusalKind::Failed,
        };
        let refusal = match response.json::<Error>().await {
            Ok(Error { error, kind: said }) => Refusal { kind: said.unwrap_or(kind), reason: error },
            Err(_) => Refusal { kind, reason: format!("{} answers {status}; is it c3os?", self.place) },
        };
        Err(ClientError::Refused(refusal))
    }

    fn unreadable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Answer { place: self.place.clone(), why: error.to_string() }
    }
}

/// The innermost cause: `connection refused` rather than `error sending request`.
fn root_cause(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
