//! Where the API listens: on sockets that whoever started us has made, else on its own.

use std::{
    fs, io,
    net::{self, SocketAddr},
    os::unix::{fs::PermissionsExt, net as unix},
    path::Path,
};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use super::ApiError;

/// Sockets that were handed over: `LISTEN_FDS`, as systemd's socket units do (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub(super) struct HandedOver {
    unix: Option<unix::UnixListener>,
    tcp: Option<net::TcpListener>,
}

impl HandedOver {
    /// The first listening socket of each kind; others are left alone.
    pub(super) fn take() -> Self {
        let mut all = ListenFd::from_env();
        let mut taken = Self::default();
        for at in 0..all.len() {
            // A socket of the other kind is an error, and stays at its place.
            if taken.tcp.is_none()
                && let Ok(Some(tcp)) = all.take_tcp_listener(at)
            {
                taken.tcp = Some(tcp);
            } else if taken.unix.is_none()
                && let Ok(Some(unix)) = all.take_unix_listener(at)
            {
                taken.unix = Some(unix);
            }
        }
        taken
    }

    /// The unix socket, and whether its file is ours to remove.
    pub(super) async fn unix(&mut self, path: &Path) -> Result<(UnixListener, bool), ApiError> {
        let Some(handed) = self.unix.take() else { return Ok((own_unix(path).await?, true)) };
        handed.set_nonblocking(true).and_then(|()| UnixListener::from_std(handed)).map_or_else(
            |source| Err(ApiError::File { operation: "take over", path: path.to_owned(), source }),
            |listener| Ok((listener, false)),
        )
    }

    /// The TCP socket; none if there is to be none.
    pub(super) async fn tcp(&mut self, address: Option<SocketAddr>) -> Result<Option<TcpListener>, ApiError> {
        let Some(address) = address else { return Ok(None) };
        let listener = match self.tcp.take() {
            Some(handed) => handed.set_nonblocking(true).and_then(|()| TcpListener::from_std(handed)),
            None => TcpListener::bind(address).await,
        };
        listener.map(Some).map_err(|source| ApiError::Port { address, source })
    }
}

async fn own_unix(path: &Path) -> Result<UnixListener, ApiError> {
    let failed = |operation, source| ApiError::File { operation, path: path.to_owned(), source };
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(ApiError::InUse(path.to_owned()));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|source| failed("make the directory of", source))?;
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("replace", source)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|source| failed("listen on", source))?;
    // Anybody may knock; who they are is asked of the kernel.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .map_err(|source| failed("open up", source))?;
    Ok(listener)
}
