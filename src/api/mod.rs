//! HTTP on a socket: what the verbs, scripts and the dashboard speak to.
//!
//! ```text
//! /run/c3os/api.sock   everything      root, group c3os, and whoever ran sudo for a bridge (SO_PEERCRED)
//! 127.0.0.1:8080       reading         anybody on this machine; no secrets, no changes without the bearer token
//! ```
//! Over TCP `Host` and `Origin` are checked, so that no web page reaches it through a browser.

mod access;
mod client;
mod listen;
mod metrics;
mod original;
mod routes;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, extract::Request, middleware, serve::IncomingStream};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};
use zeroize::Zeroizing;

pub use client::{Client, ClientError, SOCKET};

use listen::HandedOver;

use crate::daemon::handle::Handle;

/// Where to listen, and who may do what.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The unix socket.
    pub socket: PathBuf,
    /// Where the bearer token for TCP is kept.
    pub token_file: PathBuf,
    /// Where to listen on TCP; none: nowhere.
    pub tcp: Option<SocketAddr>,
    /// A TCP port that is taken is an error; else a warning.
    pub tcp_required: bool,
    /// Besides root and group `c3os`, this user may do everything.
    pub user: Option<u32>,
}

/// Why the API does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another agent or bridge answers on the socket.
    #[error("{0}: another c3os agent or bridge runs on this machine; stop it first")]
    InUse(PathBuf),
    /// The socket or the token file.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The TCP port.
    #[error(
        "cannot listen on {address}: {source}; something else has the port: choose another with --api, or `--api off`"
    )]
    Port {
        /// Where.
        address: SocketAddr,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Over the unix socket, with these credentials; none: the kernel did not say.
    Unix { uid: u32, gid: u32 },
    /// Over TCP.
    Tcp,
}

/// The running API. Dropped, it stops and takes its socket away.
#[derive(Debug)]
pub struct Server {
    tasks: Vec<JoinHandle<()>>,
    tcp: Option<SocketAddr>,
    /// The socket's file, if we made it.
    socket: Option<PathBuf>,
}

impl Server {
    /// Where it listens on TCP: as asked for, or the socket that was handed over.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Some(socket) = &self.socket {
            // Somebody may have cleaned up before us.
            let _ = fs::remove_file(socket);
        }
    }
}

/// What every request needs.
struct State {
    handle: Handle,
    user: Option<u32>,
    bearer: Zeroizing<String>,
}

/// Listens and answers, on the tokio runtime of the caller.
///
/// # Errors
/// [`ApiError`] if the socket cannot be had, or a required TCP port.
pub async fn serve(handle: Handle, settings: ApiSettings) -> Result<Server, ApiError> {
    let bearer = make_bearer(&settings.token_file)?;
    let state = Arc::new(State { handle, user: settings.user, bearer });
    let mut handed_over = HandedOver::take();
    let (unix, own) = handed_over.unix(&settings.socket).await?;
    let app = router(&state);
    let mut tasks = Vec::new();
    tasks.push(tokio::spawn(async move {
        let service = app.into_make_service_with_connect_info::<Caller>();
        if let Err(error) = axum::serve(unix, service).await {
            tracing::error!(%error, "The API's socket stopped");
        }
    }));
    let mut tcp = None;
    match handed_over.tcp(settings.tcp).await {
        Ok(None) => {}
        Ok(Some(listener)) => {
            tcp = listener.local_addr().ok();
            let app = router(&state);
            tasks.push(tokio::spawn(async move {
                let service = app.into_make_service_with_connect_info::<Caller>();
                if let Err(error) = axum::serve(listener, service).await {
                    tracing::error!(%error, "The API's TCP port stopped");
                }
            }));
        }
        Err(error) if settings.tcp_required => return Err(error),
        Err(error) => tracing::warn!(%error, "The API is on its unix socket only"),
    }
    Ok(Server { tasks, tcp, socket: own.then_some(settings.socket) })
}

fn router(state: &Arc<State>) -> Router {
    routes::router(state.clone()).layer(middleware::from_fn_with_state(state.clone(), access::check)).layer(
        middleware::from_fn(|request: Request, next: middleware::Next| async move {
            let mut response = next.run(request).await;
            let headers = response.headers_mut();
            headers.insert("x-content-type-options", "nosniff".parse().expect("a header value"));
            headers.insert("cache-control", "no-store".parse().expect("a header value"));
            response
        }),
    )
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(credentials) => Self::Unix { uid: credentials.uid(), gid: credentials.gid() },
            // Nobody is uid -1.
            Err(_) => Self::Unix { uid: u32::MAX, gid: u32::MAX },
        }
    }
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> Self {
        Self::Tcp
    }
}

/// Makes a new bearer token for this run, readable by root alone.
fn make_bearer(path: &Path) -> Result<Zeroizing<String>, ApiError> {
    let failed = |source| ApiError::File { operation: "write", path: path.to_owned(), source };
    let random = ring::rand::generate::<[u8; 32]>(&ring::rand::SystemRandom::new())
        .map_err(|_| failed(io::Error::other("the random source does not answer")))?;
    let token = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(random.expose()));
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    io::Write::write_all(&mut file, token.as_bytes()).map_err(failed)?;
    Ok(token)
}

/// The port that the original's API had.
pub fn usual_address() -> SocketAddr {
    (IpAddr::from([127, 0, 0, 1]), 8080).into()
}
