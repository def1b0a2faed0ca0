//! Whole data planes over loopback sockets; the interface is one end of a socket pair.

use std::{
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixDatagram,
    },
    sync::{Mutex, Weak},
};

use nix::sys::socket::MsgFlags;

use super::*;
use crate::{
    identity::Identity,
    tunnel::{DropReason, Offloads, REKEY_AFTER, VNET_HEADER},
};

struct Pair(UnixDatagram);

impl Device for Pair {
    fn read(&self, frame: &mut [u8]) -> std::io::Result<usize> {
        self.0.recv(frame)
    }

    fn read_ready(&self, frame: &mut [u8]) -> std::io::Result<Option<usize>> {
        match nix::sys::socket::recv(self.0.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(length)),
            Err(nix::Error::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn write(&self, parts: &[std::io::IoSlice<'_>]) -> std::io::Result<()> {
        let frame: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.send(&frame).map(|_| ())
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }
}

/// A host with a data plane: `wire` is what the kernel would be.
struct Host {
    id: NodeId,
    overlay: Ipv4Addr,
    wire: UnixDatagram,
    plane: Arc<DataPlane>,
    events: Mutex<Option<mpsc::Receiver<DataPlaneEvent>>>,
}

impl Host {
    fn start(number: u8, port: u16) -> Arc<Self> {
        let id = Identity::from_seed(&[number; 32]).id();
        let (wire, device) = UnixDatagram::pair().unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let settings = DataPlaneSettings {
            me: id,
            psk: Zeroizing::new([9; 32]),
            interface: "none".to_owned(),
            port,
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            mtu: DEFAULT_MTU,
            rekey_after: REKEY_AFTER,
            features: Features::default(),
        };
        let sockets = vec![Socket::bind(port, crate::udp::Features::default()).unwrap()];
        let (plane, events) = DataPlane::start_with(settings, vec![Pair(device)], sockets).unwrap();
        let overlay = Ipv4Addr::new(10, 1, 0, number);
        Arc::new(Self { id, overlay, wire, plane: Arc::new(plane), events: Mutex::new(Some(events)) })
    }

    fn route(&self) -> PeerRoute {
        PeerRoute {
            id: self.id,
            addresses: vec![self.overlay.into()],
            candidates: vec![Ipv4Addr::LOCALHOST.into()],
        }
    }

    fn send(&self, to: &Self, text: &[u8]) {
        self.send_as(self.overlay, to, text);
    }

    fn send_as(&self, source: Ipv4Addr, to: &Self, text: &[u8]) {
        let mut frame = vec![0; VNET_HEADER + 20];
        frame[VNET_HEADER] = 0x45;
        frame[VNET_HEADER + 12..VNET_HEADER + 16].copy_from_slice(&source.octets());
        frame[VNET_HEADER + 16..VNET_HEADER + 20].copy_from_slice(&to.overlay.octets());
        frame.extend_from_slice(text);
        self.wire.send(&frame).unwrap();
    }

    /// The text of the next packet that the interface delivers.
    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 2000];
        let length = self.wire.recv(&mut frame).expect("a packet within ten seconds");
        frame[VNET_HEADER + 20..length].to_vec()
    }

    fn count(&self, reason: DropReason) -> u64 {
        self.plane.shared.counters.get(reason)
    }
}

/// Carries handshakes between the hosts that are up, as mesh and daemon do, and tells everybody of everybody.
#[derive(Default, Clone)]
struct Mesh(Arc<Mutex<Vec<Weak<Host>>>>);

impl Mesh {
    async fn of(hosts: &[&Arc<Host>]) -> Self {
        let mesh = Self::default();
        for host in hosts {
            mesh.join(host).await;
        }
        mesh
    }

    async fn join(&self, host: &Arc<Host>) {
        self.0.lock().unwrap().push(Arc::downgrade(host));
        let hosts: Vec<Arc<Host>> = self.hosts();
        for host in &hosts {
            host.plane.set_routes(hosts.iter().map(|host| host.route()).collect());
            // Answered only once the routes are in force.
            host.plane.peers().await;
        }
        let (mesh, host) = (self.clone(), Arc::downgrade(host));
        let mut events =
            host.upgrade().and_then(|host| host.events.lock().unwrap().take()).expect("joins once");
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let (DataPlaneEvent::HandshakeWanted { peer, ticket, message }, Some(host)) =
                    (event, host.upgrade())
                {
                    let other = mesh.hosts().into_iter().find(|host| host.id == peer);
                    let answer = match other {
                        Some(other) => Some(other.plane.handshake_request(host.id, message).await),
                        None => None,
                    };
                    host.plane.handshake_answer(peer, ticket, answer);
                }
            }
        });
    }

    fn hosts(&self) -> Vec<Arc<Host>> {
        self.0.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_go_both_ways_from_the_first_on_and_pings_have_a_round_trip() {
    let (a, b) = (Host::start(1, 0), Host::start(2, 0));
    let _mesh = Mesh::of(&[&a, &b]).await;
    a.send(&b, b"first");
    assert_eq!(b.receive(), b"first");
    for i in 0..200u8 {
        b.send(&a, &[i; 100]);
        assert_eq!(a.receive(), [i; 100]);
    }
    let round_trip = a.plane.ping(b.id).await.expect("b answers");
    assert!(round_trip > Duration::ZERO);
    let peers = b.plane.peers().await;
    assert_eq!(peers.len(), 1);
    assert!(peers[0].connected && peers[0].round_trip.is_some() && peers[0].last_handshake.is_some());
    assert_eq!(peers[0].traffic.sent_packets, 200);
    assert_eq!(peers[0].traffic.received_packets, 1);
    assert_eq!(a.plane.ping(NodeId::from_bytes([7; 32])).await, Err(PingError::UnknownPeer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_floods_the_port_disturbs_nobody() {
    let (a, b) = (Host::start(1, 0), Host::start(2, 0));
    let _mesh = Mesh::of(&[&a, &b]).await;
    a.send(&b, b"x");
    assert_eq!(b.receive(), b"x");
    let stranger = Socket::bind(0, crate::udp::Features::default()).unwrap();
    let target = (Ipv4Addr::LOCALHOST, b.plane.ports()[0]).into();
    for i in 0..2000usize {
        stranger.send(&vec![0x10; i % 200 + 1], 1500, target).unwrap();
        if i % 100 == 0 {
            a.send(&b, &[i as u8]);
            assert_eq!(b.receive(), [i as u8]);
        }
    }
    a.send(&b, b"still here");
    assert_eq!(b.receive(), b"still here");
    let dropped =
        b.count(DropReason::Short) + b.count(DropReason::UnknownSession) + b.count(DropReason::Malformed);
    assert!(dropped > 0, "{:?}", b.plane.counters());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lies_about_the_source_is_not_heard() {
    let (a, b, c) = (Host::start(1, 0), Host::start(2, 0), Host::start(3, 0));
    let _mesh = Mesh::of(&[&a, &b, &c]).await;
    a.send(&b, b"x");
    assert_eq!(b.receive(), b"x");
    a.send_as(c.overlay, &b, b"I am c");
    a.send(&b, b"y");
    assert_eq!(b.receive(), b"y");
    assert_eq!(b.count(DropReason::ForeignSource), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_one_side_traffic_goes_on() {
    let (a, b) = (Host::start(1, 0), Host::start(2, 0));
    let port = b.plane.ports()[0];
    let mesh = Mesh::of(&[&a, &b]).await;
    a.send(&b, b"x");
    assert_eq!(b.receive(), b"x");
    drop(b);
    let b = Host::start(2, port);
    mesh.join(&b).await;
    b.send(&a, b"again");
    assert_eq!(a.receive(), b"again");
    a.send(&b, b"welcome");
    assert_eq!(b.receive(), b"welcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_frees_the_port_while_somebody_still_asks() {
    let a = Host::start(1, 0);
    let port = a.plane.ports()[0];
    let asked = Arc::clone(&a.plane);
    let ping = tokio::spawn(async move { asked.ping(NodeId::from_bytes([7; 32])).await });
    Arc::clone(&a.plane).stop().await;
    Socket::bind(port, crate::udp::Features::default()).expect("the port is free again");
    assert!(ping.await.unwrap().is_err());
    assert_eq!(a.plane.ping(NodeId::from_bytes([7; 32])).await, Err(PingError::NoAnswer), "nobody is left");
}

/// What the kernel hands over of a packet that came with a sound checksum from elsewhere (VIRTIO_NET_HDR_F_DATA_VALID).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_syn_keeps_a_sound_checksum_when_its_mss_is_lowered() {
    let (a, b) = (Host::start(1, 0), Host::start(2, 0));
    let _mesh = Mesh::of(&[&a, &b]).await;
    let sum = |tcp: &[u8]| {
        let pseudo = [&a.overlay.octets()[..], &b.overlay.octets(), &[0, 6, 0, 24]].concat();
        let words = pseudo.chunks(2).chain(tcp.chunks(2));
        let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        !((sum & 0xffff) + (sum >> 16)) as u16
    };
    // Ports, sequence numbers, 24 bytes with SYN, a window; MSS 1460.
    let mut tcp = [0, 1, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0x60, 2, 0xff, 0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4];
    let checksum = sum(&tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0; VNET_HEADER + 20];
    frame[0] = 2;
    let header = &mut frame[VNET_HEADER..];
    (header[0], header[3], header[9]) = (0x45, 44, 6);
    header[12..16].copy_from_slice(&a.overlay.octets());
    header[16..20].copy_from_slice(&b.overlay.octets());
    frame.extend_from_slice(&tcp);
    a.wire.send(&frame).unwrap();
    // The first one waits for the session, and is not touched on this side.
    let _ = b.receive();
    a.wire.send(&frame).unwrap();
    let arrived = b.receive();
    assert!(arrived[22..24] < [0x05, 0xb4][..], "{:?}", &arrived[20..24]);
    assert_eq!(sum(&arrived), 0);
}
