//! What is measured: the steps of a packet's way, each done over and over.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use c3os::tunnel::{
    Content, Cut, Frame, Gso, HEADER, Joiner, META, Meta, OVERHEAD, Offloads, Opener, RouteTable, Session,
    VnetHeader,
};
use ipnet::{IpNet, Ipv4Net};
use tunnels::overlay;

use crate::hub::{Hub, places};

/// Packets of a super-packet.
pub const TRAIN: usize = 45;
/// Bytes of each: IPv4, TCP with timestamps, 1,368 bytes of payload.
const LENGTH: usize = 1420;
const HEADERS: usize = 52;

/// The names that [`run`] knows.
pub const NAMES: [&str; 6] = ["seal", "seal-and-open", "cut-45", "join-45", "route-host", "route-network"];

/// Does the step `name` `times` times.
pub fn run(name: &str, times: u32) -> bool {
    match name {
        "seal" => seal(times),
        "seal-and-open" => open(times),
        "cut-45" => cut(times),
        "join-45" => join(times),
        "route-host" => route(times, IpAddr::from([10, 1, 3, 7])),
        "route-network" => route(times, IpAddr::from([10, 44, 3, 7])),
        _ => return false,
    }
    true
}

/// A super-packet of TCP over IPv4, as the kernel hands it over.
fn super_packet(source: IpAddr, destination: IpAddr) -> (VnetHeader, Vec<u8>) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { unreachable!("v4") };
    let mut packet = vec![0; HEADERS];
    (packet[0], packet[8], packet[9]) = (0x45, 64, 6);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    (packet[32], packet[33]) = (0x80, 0x10);
    packet.resize(HEADERS + TRAIN * (LENGTH - HEADERS), 0x5a);
    let header = VnetHeader {
        needs_checksum: true,
        gso: Gso::Tcp4,
        header_length: HEADERS as u16,
        gso_size: (LENGTH - HEADERS) as u16,
        checksum_start: 20,
        checksum_offset: 16,
        encapsulation: None,
    };
    (header, packet)
}

/// The packets of a super-packet.
fn packets(source: IpAddr, destination: IpAddr) -> Vec<(Meta, Vec<u8>)> {
    let (header, packet) = super_packet(source, destination);
    let cut = Cut::new(&header, &packet).expect("a sound frame");
    (0..cut.len())
        .map(|index| {
            let mut packet = vec![0; cut.length(index)];
            (cut.write(index, &mut packet), packet)
        })
        .collect()
}

fn seal(times: u32) {
    let hub = Hub::new(1);
    let (session, _, _) = hub.spoke(0);
    let mut datagram = places(Meta::default(), &[0x5a; LENGTH]);
    for _ in 0..times {
        session.seal_data(0, &mut datagram).expect("below the limit");
        black_box(&datagram);
    }
}

fn open(times: u32) {
    let hub = Hub::new(1);
    let (session, from, number) = hub.spoke(0);
    let (_, packet) = packets(overlay(number), overlay(0)).swap_remove(0);
    let mut datagram = places(Meta::default(), &packet);
    let plain = datagram.clone();
    for _ in 0..times {
        datagram.copy_from_slice(&plain);
        session.seal_data(0, &mut datagram).expect("below the limit");
        let inbound = Opener::new(hub.table(), from).open(&mut datagram).expect("authentic");
        assert!(matches!(inbound.content, Content::Packet(..)));
    }
}

fn cut(times: u32) {
    let (header, packet) = super_packet(overlay(1), overlay(0));
    let mut room = [0; LENGTH];
    for _ in 0..times {
        let cut = Cut::new(&header, black_box(&packet)).expect("a sound frame");
        for index in 0..cut.len() {
            black_box(cut.write(index, &mut room[..cut.length(index)]));
        }
    }
}

fn join(times: u32) {
    let mut packets = packets(overlay(1), overlay(0));
    for _ in 0..times {
        join_all(packets.iter_mut().map(|(meta, packet)| (*meta, packet.as_mut_slice())));
    }
}

fn join_all<'p>(packets: impl Iterator<Item = (Meta, &'p mut [u8])>) {
    let mut joiner = Joiner::new(Offloads::ALL);
    let mut frames = 0;
    let mut write = |frame: Frame<'_>| {
        frames += 1;
        black_box(frame);
    };
    for (counter, (meta, packet)) in (0..).zip(packets) {
        joiner.push(meta, packet, 1, counter, &mut write).expect("honest");
    }
    joiner.flush(&mut write);
    assert_eq!(frames, 1, "a train becomes one frame");
}

/// Among a thousand nodes with a pod network each.
fn route(times: u32, address: IpAddr) {
    let hosts = (0..1000).map(|number| (overlay(number), u32::from(number)));
    let networks = (0..1000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        let network = Ipv4Net::new(Ipv4Addr::new(10, 42 + high, low, 0), 24).expect("a length");
        (IpNet::V4(network), u32::from(number))
    });
    let table = RouteTable::new(hosts, networks);
    for _ in 0..times {
        assert!(table.lookup(black_box(address)).is_some());
    }
}

/// Trains of a hub from and to its spokes. All use one piece of memory, as one queue's thread does.
pub struct Trains {
    hub: Hub,
    sending: usize,
    packets: Vec<(Meta, Vec<u8>)>,
    buffer: Vec<u8>,
}

/// Where IPv4's source and destination are.
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

impl Trains {
    /// `sending` of `sessions` spokes have something to send.
    pub fn new(sessions: u16, sending: usize) -> Self {
        let packets = packets(overlay(0), overlay(0));
        Self { hub: Hub::new(sessions), sending, packets, buffer: vec![0; TRAIN * (OVERHEAD + LENGTH)] }
    }

    /// How many spokes send.
    pub fn sending(&self) -> usize {
        self.sending
    }

    /// Lays packets for spoke `at` ready.
    pub fn lay_packets(&mut self, at: usize) {
        let (_, _, number) = self.hub.spoke(at);
        self.address(SOURCE, 0);
        self.address(DESTINATION, number);
    }

    /// The hub's way from packets to a sealed train.
    pub fn send(&mut self) {
        let peer = self.hub.table().destination(&self.packets[0].1).expect("a route");
        let session = &peer.sending.as_ref().expect("a session").session;
        fill(&mut self.buffer, &self.packets, session);
    }

    /// Lays a sealed train of spoke `at` ready.
    pub fn lay_train(&mut self, at: usize) {
        let (_, _, number) = self.hub.spoke(at);
        self.address(SOURCE, number);
        self.address(DESTINATION, 0);
        fill(&mut self.buffer, &self.packets, self.hub.spoke(at).0);
    }

    /// The hub's way from the train of spoke `at` to a frame.
    pub fn receive(&mut self, at: usize) {
        let (_, from, _) = self.hub.spoke(at);
        let mut opener = Opener::new(self.hub.table(), from);
        let packets = self.buffer.chunks_mut(OVERHEAD + LENGTH).map(|datagram| {
            let inbound = opener.open(datagram).expect("authentic");
            let Content::Packet(meta, packet) = inbound.content else { unreachable!("a packet was sealed") };
            (meta, packet)
        });
        join_all(packets);
    }

    fn address(&mut self, field: usize, number: u16) {
        let IpAddr::V4(address) = overlay(number) else { unreachable!("v4") };
        for (_, packet) in &mut self.packets {
            packet[field..field + 4].copy_from_slice(&address.octets());
        }
    }
}

fn fill(buffer: &mut [u8], packets: &[(Meta, Vec<u8>)], session: &Session) {
    for (datagram, (meta, packet)) in buffer.chunks_mut(OVERHEAD + LENGTH).zip(packets) {
        datagram[HEADER..HEADER + META].copy_from_slice(&meta.encode());
        datagram[HEADER + META..HEADER + META + packet.len()].copy_from_slice(packet);
        session.seal_data(0, datagram).expect("below the limit");
    }
}
