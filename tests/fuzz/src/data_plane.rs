//! The data plane's readers: what a stranger sends to its port, what a hostile member seals, what the kernel hands over.

use std::{sync::Arc, time::Instant};

use c3os::tunnel::{
    Content, Cut, Encapsulation, Frame, Gso, HEADER, Joiner, META, Meta, Offloads, Opener, TAG, VNET_HEADER,
    VnetHeader, clamp_mss, too_big,
};
use tunnels::{Node, settle};

/// The longest IP packet.
const LONGEST_PACKET: usize = 65_535;
/// Bytes between an outer UDP header and the packet in a VXLAN.
const VXLAN_AND_ETHERNET: u16 = 8 + 14;

/// Two nodes with a session, which the second one asked for.
fn pair(now: &mut Instant) -> [Node; 2] {
    let mut nodes = [1, 2].map(Node::new);
    let [first, second] = &mut nodes;
    first.tunnel.handle_routes(vec![second.route()], *now);
    second.meet(first, now);
    nodes
}

/// Bytes from the network, in three ways: as they are, as what a member seals into data, and as its control messages.
pub fn take_datagram(bytes: &[u8]) {
    let mut now = Instant::now();
    let [mut node, mut member] = pair(&mut now);
    let from = member.endpoint();
    let mut raw = bytes.to_vec();
    assert!(Opener::new(&node.table, from).open(&mut raw).is_err(), "nobody has sealed this");
    let session = member.session().map(Arc::clone).expect("there is a session");
    let mut opened: Vec<(Meta, Vec<u8>, u64)> = Vec::new();
    for piece in pieces(bytes) {
        let mut datagram = [&[0; HEADER], piece, &[0; TAG]].concat();
        if session.seal_data(0, &mut datagram).is_err() {
            return;
        }
        let Ok(inbound) = Opener::new(&node.table, from).open(&mut datagram) else { continue };
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
        if let Some(session) = node.session().map(Arc::clone) {
            node.tunnel.handle_control(&session, from, piece, now);
        }
        node.tunnel.handle_request(member.id, piece, now);
    }
    settle(&mut node, &mut member, &mut now);
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
