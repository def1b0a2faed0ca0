//! The sockets' side of libp2p: TCP with Noise and yamux, QUIC, and a port for both.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use libp2p::{
    PeerId, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade},
    identity::Keypair,
    noise, quic, tcp, yamux,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{MeshError, counters::Counters, doorway::Doorway};

/// For each of: a TCP connection with its encryption, a QUIC handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A neighbour has one link and eight requests of either side open; a stranger needs one stream. What goes beyond
/// ends the connection.
const STREAMS: u16 = 32;
/// Receive window of a stream, yamux' least.
const WINDOW: u32 = 256 * 1024;
/// The link's beats keep a connection alive, so that QUIC's own pings never come up.
const QUIC_IDLE: Duration = Duration::from_secs(25);

pub(super) fn build(
    keypair: &Keypair,
    counters: Arc<Mutex<Counters>>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, MeshError> {
    let noise = noise::Config::new(keypair).map_err(|error| MeshError::Identity(error.to_string()))?;
    // With this setting libp2p takes yamux 0.12: bounded streams, and none of 0.13's pings every 10 s.
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(usize::from(STREAMS));
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().listen_backlog(256))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(HANDSHAKE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = HANDSHAKE;
    config.max_idle_timeout = QUIC_IDLE.as_millis() as u32;
    config.keep_alive_interval = 4 * QUIC_IDLE;
    config.max_concurrent_stream_limit = u32::from(STREAMS);
    config.max_stream_data = WINDOW;
    config.max_connection_data = 4 * WINDOW;
    let quic = quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = tcp.or_transport(quic).map(|either, _| either.into_inner());
    Ok(Doorway::new(both.boxed(), counters).boxed())
}

/// A port that is free for TCP and UDP: `wanted`, else one of the system's choice.
///
/// libp2p listens with SO_REUSEPORT, which would let two agents share a port by accident; hence the trial.
pub(super) fn free_port(wanted: u16) -> Result<u16, MeshError> {
    let mut failure = None;
    for port in [wanted].into_iter().filter(|port| *port != 0).chain([0; 16]) {
        match try_port(port) {
            Ok(port) => {
                if wanted != 0 && port != wanted {
                    tracing::warn!(
                        wanted,
                        port,
                        "the port is taken; listening on another: is a second agent running?"
                    );
                }
                return Ok(port);
            }
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.map_or_else(|| "no free port".to_owned(), |error| error.to_string());
    Err(MeshError::Listen(failure))
}

fn try_port(port: u16) -> io::Result<u16> {
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let port = tcp.local_addr()?.port();
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    udp.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    // A host without IPv6 has no conflict there.
    for kind in [Type::STREAM, Type::DGRAM] {
        let Ok(socket) = Socket::new(Domain::IPV6, kind, None) else { continue };
        socket.set_only_v6(true)?;
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        match socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(port)
}
