//! The data plane's readers: what a stranger sends to its port, what a hostile member seals, what the kernel hands over.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use c3os::{
    identity::{Identity, NodeId},
    tunnel::{
        Content, Counters, Cut, Encapsulation, Endpoint, Frame, Gso, HEADER, Joiner, META, Meta, Offloads,
        Opener, PeerRoute, REKEY_AFTER, TAG, Table, Tunnel, TunnelEvent, TunnelSettings, VNET_HEADER,
        VnetHeader, clamp_mss, too_big,
    },
};

/// The longest IP packet.
const LONGEST_PACKET: usize = 65_535;
/// Bytes between an outer UDP header and the packet in a VXLAN.
const VXLAN_AND_ETHERNET: u16 = 8 + 14;

/// Two tunnels with a session, and what the first one's threads read.
struct Pair {
    tables: [Table; 2],
    tunnels: [Tunnel; 2],
    ids: [NodeId; 2],
    now: Instant,
}

fn ip(number: usize) -> IpAddr {
    IpAddr::from([192, 168, 0, number as u8 + 1])
}

fn address(number: usize) -> Endpoint {
    Endpoint::Udp(SocketAddr::new(ip(number), 51900))
}

fn overlay(number: usize) -> IpAddr {
    IpAddr::from([10, 1, 0, number as u8 + 1])
}

impl Pair {
    fn new() -> Self {
        let ids = [1, 2].map(|seed| Identity::from_seed(&[seed; 32]).id());
        let now = Instant::now();
        let tunnel = |number: usize| {
            let settings = TunnelSettings {
                me: ids[number],
                psk: [9; 32].into(),
                aes: true,
                ports: vec![51900],
                addresses: vec![ip(number)],
                mtu: 1420,
                rekey_after: REKEY_AFTER,
            };
            let mut tunnel = Tunnel::new(settings, [number as u8; 32], Arc::new(Counters::default()));
            let other = 1 - number;
            let route =
                PeerRoute { id: ids[other], addresses: vec![overlay(other)], candidates: vec![ip(other)] };
            tunnel.handle_routes(vec![route], now);
            tunnel
        };
        let mut pair = Self { tables: Default::default(), tunnels: [tunnel(0), tunnel(1)], ids, now };
        pair.tunnels[1].handle_packet(ids[0], vec![0; META + 20], now);
        pair.settle();
        pair
    }

    /// Carries handshakes and datagrams until nothing is under way.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for from in [0, 1] {
                let to = 1 - from;
                if let Some(table) = self.tunnels[from].poll_table() {
                    self.tables[from] = table;
                }
                while let Some(event) = self.tunnels[from].poll_event() {
                    if let TunnelEvent::HandshakeWanted { peer, ticket, message } = event {
                        let answer = self.tunnels[to].handle_request(self.ids[from], &message, self.now);
                        if let Some(table) = self.tunnels[to].poll_table() {
                            self.tables[to] = table;
                        }
                        self.tunnels[from].handle_answer(peer, ticket, Some(&answer), self.now);
                        quiet = false;
                    }
                }
                while let Some((_, mut datagram)) = self.tunnels[from].poll_transmit() {
                    self.now += Duration::from_millis(1);
                    self.deliver(to, &mut datagram);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn deliver(&mut self, to: usize, datagram: &mut [u8]) {
        let from = address(1 - to);
        if let Some(table) = self.tunnels[to].poll_table() {
            self.tables[to] = table;
        }
        let Ok(inbound) = Opener::new(&self.tables[to], from).open(datagram) else { return };
        let session = Arc::clone(inbound.session);
        if inbound.first {
            self.tunnels[to].handle_confirmed(session.local(), from, self.now);
        }
        if let Content::Control(plaintext) = inbound.content {
            self.tunnels[to].handle_control(&session, from, plaintext, self.now);
        }
    }
}

/// Bytes from the network, in three ways: as they are, as what a member seals into data, and as its control messages.
pub fn take_datagram(bytes: &[u8]) {
    let mut pair = Pair::new();
    let mut raw = bytes.to_vec();
    assert!(Opener::new(&pair.tables[0], address(1)).open(&mut raw).is_err(), "nobody has sealed this");
    let session = pair.tables[1].peers()[0].sending.as_ref().map(|sending| Arc::clone(&sending.session));
    let session = session.expect("there is a session");
    let mut opened: Vec<(Meta, Vec<u8>, u64)> = Vec::new();
    for piece in pieces(bytes) {
        let mut datagram = [&[0; HEADER], piece, &[0; TAG]].concat();
        if session.seal_data(0, &mut datagram).is_err() {
            return;
        }
        let Ok(inbound) = Opener::new(&pair.tables[0], address(1)).open(&mut datagram) else { continue };
        let counter = inbound.header.counter;
        if let Content::Packet(meta, packet) = inbound.content {
            clamp_mss(packet, 1280, meta.partial_checksum);
            opened.push((meta, packet.to_vec(), counter));
        }
    }
    let without_tunnels = Offloads { encapsulated: false, ..Offloads::ALL };
    let tcp_alone = Offloads { udp: false, ..without_tunnels };
    for offloads in [Offloads::ALL, without_tunnels, tcp_alone, Offloads::NONE] {
        let mut packets = opened.clone();
        let mut joiner = Joiner::new(offloads);
        let mut write = |frame: Frame<'_>| check(frame, offloads);
        for (meta, packet, counter) in &mut packets {
            let _ = joiner.push(*meta, packet, 1, *counter, &mut write);
        }
        joiner.flush(&mut write);
    }
    for piece in pieces(bytes) {
        let now = pair.now;
        let known = pair.tables[0].peers()[0].sending.as_ref().map(|sending| Arc::clone(&sending.session));
        if let Some(session) = known {
            pair.tunnels[0].handle_control(&session, address(1), piece, now);
        }
        pair.tunnels[0].handle_request(pair.ids[1], piece, now);
    }
    pair.settle();
}

/// What the kernel would have to take.
fn check(frame: Frame<'_>, offloads: Offloads) {
    let header: [u8; VNET_HEADER] = frame[0].as_ref().try_into().expect("the header alone");
    let header = VnetHeader::decode(&header);
    let length: usize = frame[1..].iter().map(|part| part.len()).sum();
    assert!(length <= LONGEST_PACKET, "{length} bytes");
    assert!(offloads.tcp || header == VnetHeader::PLAIN, "{header:?}");
    if header.needs_checksum {
        let field = usize::from(header.checksum_start) + usize::from(header.checksum_offset);
        assert!(field + 2 <= length, "{header:?} of {length} bytes");
    }
    if let Some(outer) = header.encapsulation {
        assert!(offloads.encapsulated && header.gso != Gso::None && header.needs_checksum, "{header:?}");
        assert!(outer.udp >= 34 && outer.inner >= outer.udp + 8 && header.checksum_start >= outer.inner + 20);
    }
    if header.gso_size > 0 {
        assert!(usize::from(header.header_length) < length, "{header:?} of {length} bytes");
    }
}

/// A frame of the interface: cut, and each packet of it joined again.
pub fn take_frame(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk::<VNET_HEADER>() else { return };
    let _ = too_big(packet, 1280);
    let header = VnetHeader::decode(header);
    let Ok(cut) = Cut::new(&header, packet) else { return };
    let mut packets: Vec<(Meta, Vec<u8>)> = Vec::new();
    for index in 0..cut.len() {
        let mut packet = vec![0; cut.length(index)];
        let meta = cut.write(index, &mut packet);
        packets.push((Meta::decode(meta.encode()), packet));
    }
    let mut joiner = Joiner::new(Offloads::ALL);
    let mut write = |frame: Frame<'_>| check(frame, Offloads::ALL);
    for (counter, (meta, packet)) in packets.iter_mut().enumerate() {
        let _ = joiner.push(*meta, packet, 1, counter as u64, &mut write);
    }
    joiner.flush(&mut write);
}

/// The pieces of an input, each with its length before it.
fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// A super-packet of TCP or UDP over IPv4 or IPv6.
pub fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let packet = packet(v6, tcp);
        let start = if v6 { 40 } else { 20 };
        let header = VnetHeader {
            needs_checksum: true,
            gso: match (tcp, v6) {
                (false, _) => Gso::Udp,
                (true, false) => Gso::Tcp4,
                (true, true) => Gso::Tcp6,
            },
            header_length: start + if tcp { 20 } else { 8 },
            gso_size: 100,
            checksum_start: start,
            checksum_offset: if tcp { 16 } else { 6 },
            encapsulation: None,
        };
        frames.push((header, packet.clone()));
        // The same in a VXLAN.
        for outer_v6 in [false, true] {
            let mut outer = self::packet(outer_v6, false);
            let udp = if outer_v6 { 40 } else { 20 };
            let inner = udp + 8 + VXLAN_AND_ETHERNET;
            outer.truncate(usize::from(inner));
            outer.extend(&packet);
            let header = VnetHeader {
                header_length: inner + header.header_length,
                checksum_start: inner + header.checksum_start,
                encapsulation: Some(Encapsulation { v6: outer_v6, checksum: outer_v6, udp, inner }),
                ..header
            };
            frames.push((header, outer));
        }
    }
    let sound =
        |(header, packet): &(VnetHeader, Vec<u8>)| Cut::new(header, packet).is_ok_and(|cut| cut.len() > 1);
    assert!(frames.iter().all(sound), "a frame that is no good");
    frames.into_iter().map(|(header, packet)| [&header.encode()[..], &packet].concat()).collect()
}

/// TCP or UDP from the second node to the first, with 250 bytes of payload.
fn packet(v6: bool, tcp: bool) -> Vec<u8> {
    let start = if v6 { 40 } else { 20 };
    let mut packet = vec![0; start + if tcp { 20 } else { 8 }];
    if v6 {
        (packet[0], packet[6]) = (0x60, if tcp { 6 } else { 17 });
    } else {
        (packet[0], packet[9]) = (0x45, if tcp { 6 } else { 17 });
        packet[12..16].copy_from_slice(&[10, 1, 0, 2]);
        packet[16..20].copy_from_slice(&[10, 1, 0, 1]);
    }
    if tcp {
        (packet[start + 12], packet[start + 13]) = (0x50, 0x18);
    }
    packet.extend((0..250u8).map(|i| i ^ 0x55));
    packet
}

/// The packets of such frames, as a member would seal them, and a few control messages.
pub fn datagrams() -> Vec<Vec<u8>> {
    let piece = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut all: Vec<Vec<u8>> = Vec::new();
    for frame in frames() {
        let Some((header, packet)) = frame.split_first_chunk::<VNET_HEADER>() else { continue };
        let Ok(cut) = Cut::new(&VnetHeader::decode(header), packet) else { continue };
        let packets = (0..cut.len()).map(|index| {
            let mut bytes = vec![0; META + cut.length(index)];
            let meta = cut.write(index, &mut bytes[META..]).encode();
            bytes[..META].copy_from_slice(&meta);
            piece(&bytes)
        });
        all.push(packets.collect::<Vec<_>>().concat());
    }
    all.push([[1; 9], [2; 9], [3; 9], [4; 9], [5; 9]].map(|message| piece(&message)).concat());
    all
}
