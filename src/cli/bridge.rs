//! `c3os bridge`: from a laptop into the mesh, with the token alone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::Context;

use crate::{
    api::{self, ApiSettings, SOCKET},
    config::{Config, NetworkId, RoleSetting, TokenText},
    daemon::{self, Purpose},
    host::Root,
    node::snapshot::Snapshot,
};

/// Joins the mesh from this computer for as long as it runs: interface, API and dashboard. Needs root.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The network token; rather give it as NETWORK_TOKEN, where `ps` does not show it.
    #[arg(long, env = "NETWORK_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    network_token: String,
    /// Which cluster of the mesh to speak of.
    #[arg(long, env = "NETWORK_ID", default_value_t)]
    network_id: NetworkId,
    /// Where API and dashboard listen: an address, or `off`.
    #[arg(long, env = "C3OS_API_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    api: Listen,
    /// Name of the interface.
    #[arg(long, env = "IFACE", default_value = "c3os0")]
    interface: String,
    /// Our address in the overlay; without one it is chosen.
    #[arg(long, env = "ADDRESS")]
    address: Option<Ipv4Addr>,
    /// A peer to dial first, as a multiaddress or host:port; may be given more than once.
    #[arg(long = "peer", value_name = "ADDR", env = "C3OS_PEER", value_delimiter = ',')]
    peers: Vec<String>,
    /// No interface: see who is there and fetch the kubeconfig only.
    #[arg(long)]
    no_interface: bool,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

/// Reads `--api`: `off`, `HOST:PORT`, or `http://HOST:PORT` as the original took it.
pub(super) fn listen_address(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen(None));
    }
    let address = text.strip_prefix("http://").unwrap_or(text).replace("localhost:", "127.0.0.1:");
    address.parse().map(|address| Listen(Some(address))).map_err(|_| "use HOST:PORT, or `off`".to_owned())
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root() || args.no_interface,
        "the bridge makes an interface, which needs root: sudo c3os bridge ..., or add --no-interface"
    );
    let mut config = Config {
        network_token: Some(TokenText::new(args.network_token)),
        network_id: args.network_id,
        role: RoleSetting::None,
        ..Config::default()
    };
    config.vpn.create = !args.no_interface;
    config.vpn.interface = args.interface;
    config.vpn.address = args.address;
    // Another agent or bridge may have the usual port; peers are told ours in the handshake.
    config.vpn.port = 0;
    config.discovery.bootstrap = args.peers;
    super::runtime()?.block_on(async {
        let (handle, control) = daemon::channel();
        let settings = ApiSettings {
            socket: SOCKET.into(),
            token_file: "/run/c3os/api.token".into(),
            tcp: args.api.0,
            tcp_required: true,
            user: std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()),
        };
        let mut watch = handle.watch();
        let server = api::serve(handle, settings).await.context("the API")?;
        if let Some(address) = server.tcp() {
            eprintln!("Dashboard and API: http://{address}. Keep this open; Ctrl-C leaves the mesh.");
        }
        let progress = tokio::spawn(async move {
            let mut shown = String::new();
            while watch.changed().await.is_ok() {
                let line = who_is_there(&watch.borrow_and_update());
                if line != shown {
                    eprintln!("{line}");
                    shown = line;
                }
            }
        });
        let ended = daemon::run(Purpose::Bridge(Box::new(config)), Root::system(), control).await;
        progress.abort();
        drop(server);
        ended.map(|()| ExitCode::SUCCESS)
    })
}

fn who_is_there(snapshot: &Snapshot) -> String {
    let live: Vec<String> = snapshot
        .members
        .iter()
        .filter(|member| member.live && member.id != snapshot.node.id && !member.name.is_empty())
        .map(|member| match (member.role, member.ipv4) {
            (Some(role), Some(address)) => format!("{} {address} ({role})", member.name),
            (None, Some(address)) => format!("{} {address}", member.name),
            (_, None) => member.name.clone(),
        })
        .collect();
    match live.as_slice() {
        [] => "Looking for machines of this network...".to_owned(),
        machines => format!("{} machines: {}", machines.len(), machines.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_takes_the_original_spellings() {
        let usual = Ok(Listen(Some(([127, 0, 0, 1], 8080).into())));
        for text in ["127.0.0.1:8080", "http://127.0.0.1:8080", "localhost:8080", "http://localhost:8080"] {
            assert_eq!(listen_address(text), usual, "{text}");
        }
        assert_eq!(listen_address("off"), Ok(Listen(None)));
        assert!(listen_address("8080").is_err());
    }
}
