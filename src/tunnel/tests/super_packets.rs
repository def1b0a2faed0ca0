//! From a frame of one interface to the frames of another: cutting and joining.

use proptest::prelude::*;

use super::*;
use crate::tunnel::{
    layout::{Layout, complete, fold, sum},
    pad::PAD,
};

const ALL: Offloads = Offloads::ALL;
/// TCP flags that only the last packet of a train may have.
const LAST_FLAGS: u8 = 0x09;
/// The longest IP packet.
const MAX_LENGTH: usize = 65_535;
/// VXLAN's own header, and Ethernet's.
const BETWEEN: usize = 8 + 14;

/// A super-packet as the kernel hands it over, with `payload` bytes.
fn super_packet(v6: bool, tcp: bool, gso_size: u16, payload: usize, flags: u8) -> (VnetHeader, Vec<u8>) {
    let start = if v6 { 40 } else { 20 };
    let mut packet = vec![0; start + if tcp { 32 } else { 8 }];
    let header_length = packet.len();
    if v6 {
        packet[0] = 0x60;
        packet[6] = if tcp { 6 } else { 17 };
        packet[7] = 64;
        packet[8..24].fill(0x11);
        packet[24..40].fill(0x22);
    } else {
        packet[0] = 0x45;
        packet[4..6].copy_from_slice(&0xfffe_u16.to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = if tcp { 6 } else { 17 };
        packet[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 1, 0, 2]);
    }
    packet[start..start + 4].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
    if tcp {
        packet[start + 4..start + 8].copy_from_slice(&0xffff_f000_u32.to_be_bytes());
        packet[start + 12] = 0x80;
        packet[start + 13] = flags;
    }
    packet.extend((0..payload).map(|i| (i * 7 % 251) as u8));
    let length = packet.len();
    let layout = Layout::of(&packet).expect("made to be one");
    layout.set_length(&mut packet[..header_length], length);
    let header = VnetHeader {
        needs_checksum: true,
        gso: match (tcp, v6) {
            (false, _) => Gso::Udp,
            (true, false) => Gso::Tcp4,
            (true, true) => Gso::Tcp6,
        },
        header_length: header_length as u16,
        gso_size,
        checksum_start: start as u16,
        checksum_offset: if tcp { 16 } else { 6 },
        encapsulation: None,
    };
    (header, packet)
}

/// A super-packet in a VXLAN, as the kernel hands it over.
fn in_vxlan(v6: bool, checksum: bool, (mut header, inner): (VnetHeader, Vec<u8>)) -> (VnetHeader, Vec<u8>) {
    let (_, mut packet) = super_packet(v6, false, 0, 0, 0);
    let start = packet.len() - 8;
    packet[start + 2..start + 4].copy_from_slice(&4789u16.to_be_bytes());
    let outer = Layout::of(&packet).expect("UDP");
    let first_inner = packet.len() + BETWEEN;
    packet.extend((0..BETWEEN as u8).map(|byte| byte ^ 0x55));
    packet.extend(inner);
    let length = packet.len();
    outer.set_length(&mut packet, length);
    if !checksum {
        packet[outer.checksum()].fill(0);
    }
    header.header_length += first_inner as u16;
    header.checksum_start += first_inner as u16;
    header.encapsulation =
        Some(Encapsulation { v6, checksum, udp: outer.start as u16, inner: first_inner as u16 });
    (header, packet)
}

/// What a frame would be if the kernel took it without padding.
fn without_pad((mut header, mut packet): (VnetHeader, Vec<u8>)) -> (VnetHeader, Vec<u8>) {
    let Some(mut outer) = header.encapsulation else { return (header, packet) };
    assert!(outer.udp >= 14 + if outer.v6 { 40 } else { 20 }, "what the kernel asks for");
    let (at, pad) = (usize::from(outer.udp) - PAD, PAD as u16);
    if outer.v6 {
        assert_eq!((packet[6], packet[at], packet[at + 1]), (60, 17, 1), "options of 16 bytes, then UDP");
        packet[6] = 17;
    } else {
        assert_eq!(usize::from(packet[0] & 0xf) * 4, at + PAD);
        assert_eq!(fold(sum(&packet[..at + PAD], 0)), 0xffff);
        packet[0] -= 4;
    }
    packet.drain(at..at + PAD);
    header.header_length -= pad;
    header.checksum_start -= pad;
    (outer.udp, outer.inner) = (outer.udp - pad, outer.inner - pad);
    header.encapsulation = Some(outer);
    // The length and IPv4's checksum were those with it.
    let length = packet.len();
    let udp = Layout::of(&packet).expect("UDP");
    udp.set_length(&mut packet, length);
    if !outer.checksum {
        packet[udp.checksum()].fill(0);
    }
    (header, packet)
}

fn cut(header: &VnetHeader, packet: &[u8]) -> Vec<(Meta, Vec<u8>)> {
    let cut = Cut::new(header, packet).expect("the kernel's own");
    (0..cut.len())
        .map(|index| {
            let mut bytes = vec![0; cut.length(index)];
            (cut.write(index, &mut bytes), bytes)
        })
        .collect()
}

fn join(packets: &mut [(Meta, Vec<u8>)], counters: &[u64], offloads: Offloads) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut write = |frame: Frame<'_>| {
        let header: [u8; VNET_HEADER] = frame[0].as_ref().try_into().expect("the header alone");
        frames
            .push((VnetHeader::decode(&header), frame[1..].iter().flat_map(|part| part.to_vec()).collect()));
    };
    let mut joiner = Joiner::new(offloads);
    for ((meta, packet), counter) in packets.iter_mut().zip(counters) {
        joiner.push(*meta, packet, 1, *counter, &mut write).expect("honest");
    }
    joiner.flush(&mut write);
    frames
}

/// What the kernel makes of a partial checksum.
fn completed(header: &VnetHeader, packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if header.needs_checksum {
        let start = usize::from(header.checksum_start);
        complete(&mut packet, start, start + usize::from(header.checksum_offset));
    }
    packet
}

/// Whether IPv4's and the transport's checksums are right.
fn is_sound(packet: &[u8]) -> bool {
    let layout = Layout::of(packet).expect("TCP or UDP");
    let mut copy = packet[..layout.payload].to_vec();
    layout.set_length(&mut copy, packet.len());
    let pseudo = u16::from_be_bytes([copy[layout.checksum().start], copy[layout.checksum().start + 1]]);
    let total = fold(sum(&packet[layout.start..], u32::from(pseudo)));
    total == 0xffff && (layout.v6 || fold(sum(&packet[..layout.start], 0)) == 0xffff)
}

proptest! {
    #[test]
    fn a_super_packet_arrives_as_it_was_sent(
        v6: bool, tcp: bool, gso_size in 1u16..1400, count in 2usize..44, short in 0usize..1400, last_flags in 0u8..16,
    ) {
        let flags = 0x10 | last_flags & LAST_FLAGS;
        let payload = usize::from(gso_size) * (count - 1) + short.clamp(1, usize::from(gso_size));
        let (header, packet) = super_packet(v6, tcp, gso_size, payload, flags);
        let mut packets = cut(&header, &packet);
        prop_assert_eq!(packets.len(), count);
        let counters: Vec<u64> = (100..).take(count).collect();
        prop_assert_eq!(join(&mut packets, &counters, ALL), vec![(header, packet)]);
    }

    #[test]
    fn without_offloads_whole_packets_with_right_checksums_arrive(
        v6: bool, tcp: bool, gso_size in 1u16..1400, payload in 1usize..20_000,
    ) {
        let payload = payload.min(usize::from(gso_size) * 60);
        let (header, packet) = super_packet(v6, tcp, gso_size, payload, 0x18);
        let mut packets = cut(&header, &packet);
        let counters: Vec<u64> = (0..).take(packets.len()).collect();
        let frames = join(&mut packets, &counters, Offloads::NONE);
        prop_assert_eq!(frames.len(), packets.len());
        for (header, packet) in &frames {
            prop_assert_eq!(*header, VnetHeader::PLAIN);
            prop_assert!(is_sound(packet));
        }
        let payloads: Vec<u8> =
            frames.iter().flat_map(|(_, p)| p[Layout::of(p).expect("TCP or UDP").payload..].to_vec()).collect();
        let start = Layout::of(&packet).expect("TCP or UDP").payload;
        prop_assert_eq!(&payloads[..], &packet[start..]);
    }

    #[test]
    fn a_super_packet_in_a_vxlan_arrives_as_it_was_sent(
        outer_v6: bool, checksum: bool, v6: bool, tcp: bool, gso_size in 1u16..1300, count in 2usize..44, last_flags in 0u8..16,
    ) {
        let payload = usize::from(gso_size) * count;
        let sent = in_vxlan(outer_v6, checksum, super_packet(v6, tcp, gso_size, payload, 0x10 | last_flags & LAST_FLAGS));
        let mut packets = cut(&sent.0, &sent.1);
        prop_assert_eq!(packets.len(), count);
        let counters: Vec<u64> = (100..).take(count).collect();
        let frames: Vec<_> = join(&mut packets, &counters, ALL).into_iter().map(without_pad).collect();
        prop_assert_eq!(frames, vec![sent]);
    }

    #[test]
    fn an_interface_that_takes_no_tunnels_gets_whole_packets_of_one(
        outer_v6: bool, checksum: bool, v6: bool, tcp: bool, gso_size in 1u16..1300, count in 2usize..44,
        udp: bool, lost in 0usize..44,
    ) {
        let payload = usize::from(gso_size) * count;
        let sent = in_vxlan(outer_v6, checksum, super_packet(v6, tcp, gso_size, payload, 0x10));
        let mut packets = cut(&sent.0, &sent.1);
        let lost = lost % count;
        packets.remove(lost);
        let counters: Vec<u64> = (0..).filter(|counter| *counter != lost as u64).take(count).collect();
        let offloads = Offloads { udp, encapsulated: false, ..ALL };
        let mut inside = Vec::new();
        for (header, packet) in join(&mut packets, &counters, offloads) {
            prop_assert_eq!(header.encapsulation, None);
            // What the kernel cuts a UDP super-packet into.
            let size = if header.gso == Gso::None { packet.len() } else { usize::from(header.gso_size) };
            prop_assert!(header.gso == Gso::None || header.gso == Gso::Udp && udp);
            let start = Layout::of(&packet).expect("UDP").payload;
            for inner in packet[start..].chunks(size) {
                prop_assert!(is_sound(&inner[BETWEEN..]));
                let start = Layout::of(&inner[BETWEEN..]).expect("TCP or UDP").payload;
                inside.extend_from_slice(&inner[BETWEEN + start..]);
            }
        }
        let mut expected = sent.1[usize::from(sent.0.header_length)..].to_vec();
        expected.drain(lost * usize::from(gso_size)..(lost + 1) * usize::from(gso_size));
        prop_assert_eq!(inside, expected);
    }

    #[test]
    fn a_packet_that_is_left_over_of_a_vxlan_train_is_whole(outer_v6: bool, checksum: bool, v6: bool, tcp: bool) {
        let sent = in_vxlan(outer_v6, checksum, super_packet(v6, tcp, 400, 1200, 0x10));
        let mut packets = cut(&sent.0, &sent.1);
        packets.remove(1);
        for (header, packet) in join(&mut packets, &[1, 3], ALL) {
            prop_assert_eq!((header.gso, header.encapsulation), (Gso::None, None));
            let packet = completed(&header, &packet);
            prop_assert!(is_sound(&packet));
            let start = Layout::of(&packet).expect("UDP").payload;
            prop_assert!(is_sound(&packet[start + BETWEEN..]));
        }
    }

    #[test]
    fn a_lost_datagram_splits_the_train_and_costs_nothing_else(count in 3usize..40, lost in 0usize..40) {
        let lost = lost % count;
        let (header, packet) = super_packet(false, true, 100, 100 * count, 0x18);
        let mut packets = cut(&header, &packet);
        let mut counters: Vec<u64> = (0..).take(count).collect();
        packets.remove(lost);
        counters.remove(lost);
        let frames = join(&mut packets, &counters, ALL);
        prop_assert!(frames.len() <= 2);
        let payload: usize = frames.iter().map(|(_, packet)| packet.len() - 52).sum();
        prop_assert_eq!(payload, 100 * (count - 1));
        for (header, packet) in &frames {
            prop_assert!(header.gso != Gso::None || is_sound(&completed(header, packet)));
        }
    }

    #[test]
    fn a_hostile_member_can_send_what_it_likes(
        packets in prop::collection::vec((any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..20),
    ) {
        let mut packets: Vec<(Meta, Vec<u8>)> = packets
            .into_iter()
            .map(|(meta, mut packet, ip)| {
                if let (true, Some(first)) = (ip, packet.first_mut()) {
                    *first = 0x45;
                }
                (Meta::decode(meta), packet)
            })
            .collect();
        let mut joiner = Joiner::new(ALL);
        let mut write = |frame: Frame<'_>| {
            let header: [u8; VNET_HEADER] = frame[0].as_ref().try_into().expect("the header alone");
            let header = VnetHeader::decode(&header);
            let length: usize = frame[1..].iter().map(|part| part.len()).sum();
            assert!(length <= MAX_LENGTH);
            if header.needs_checksum {
                assert!(usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2 <= length);
            }
            if header.gso != Gso::None {
                assert!(header.gso_size > 0 && usize::from(header.header_length) < length);
            }
        };
        for (counter, (meta, packet)) in packets.iter_mut().enumerate() {
            let _ = joiner.push(*meta, packet, 1, counter as u64, &mut write);
        }
        joiner.flush(&mut write);
    }
}

#[test]
fn single_packets_of_one_flow_that_follow_each_other_are_joined() {
    let single = |port: u8, payload: usize| {
        let (header, mut packet) = super_packet(false, false, 0, payload, 0);
        packet[21] = port;
        cut(&VnetHeader { gso: Gso::None, ..header }, &packet).remove(0)
    };
    let mut packets =
        [single(1, 64), single(1, 64), single(1, 64), single(1, 60), single(1, 60), single(2, 60)];
    let frames = join(&mut packets, &[1, 2, 3, 4, 5, 6], ALL);
    let lengths: Vec<usize> = frames.iter().map(|(_, packet)| packet.len()).collect();
    // The shorter one ends its super-packet, and the other flow begins its own.
    assert_eq!(lengths, [28 + 3 * 64 + 60, 28 + 60, 28 + 60]);
    assert_eq!((frames[0].0.gso, frames[0].0.gso_size), (Gso::Udp, 64));
    assert!(frames[1..].iter().all(|(header, packet)| is_sound(&completed(header, packet))));
    // A datagram that is missing in between ends one as well.
    assert_eq!(join(&mut packets[..3].to_vec(), &[1, 2, 4], ALL).len(), 2);
}

#[test]
fn a_push_does_not_part_what_came_in_one_train_and_nothing_follows_the_end() {
    for (v6, flags, frames) in [(false, 0x18, 1), (true, 0x18, 1), (false, 0x11, 2)] {
        let (header, first) = super_packet(v6, true, 100, 300, flags);
        let (_, mut second) = super_packet(v6, true, 100, 250, 0x10);
        let sequence = Layout::of(&first).expect("TCP").sequence();
        second[sequence].copy_from_slice(&0xffff_f12c_u32.to_be_bytes());
        let mut packets = [cut(&header, &first), cut(&header, &second)].concat();
        let joined = join(&mut packets, &[1, 2, 3, 4, 5, 6], ALL);
        assert_eq!(joined.len(), frames);
        let (vnet, packet) = &joined[0];
        let layout = Layout::of(packet).expect("TCP");
        assert_eq!((vnet.gso_size, packet[layout.flags()]), (100, flags));
        assert_eq!(packet.len() - layout.payload, if frames == 1 { 550 } else { 300 });
    }
}

#[test]
fn packets_of_two_flows_are_not_joined() {
    let (header, packet) = super_packet(false, true, 100, 400, 0x10);
    let mut packets = cut(&header, &packet);
    // The third says that it goes on with the train, from another port.
    packets[2].1[21] ^= 1;
    let frames = join(&mut packets, &[1, 2, 3, 4], ALL);
    assert!(frames.len() > 1);
    assert_eq!(frames[0].1.len(), 52 + 200);
}

#[test]
fn a_gap_in_the_sequence_numbers_is_not_joined() {
    let (header, packet) = super_packet(false, true, 100, 400, 0x10);
    let mut packets = cut(&header, &packet);
    packets.remove(1);
    // A member that lies about the counters.
    let frames = join(&mut packets, &[1, 2, 3], ALL);
    assert_eq!(frames[0].1.len(), 52 + 100);
}

#[test]
fn a_checksum_said_to_be_elsewhere_is_refused() {
    let (header, packet) = super_packet(false, true, 100, 200, 0x10);
    let mut packets = cut(&header, &packet);
    packets[0].0.checksum_start = 24;
    let (meta, packet) = &mut packets[0];
    let refused = Joiner::new(ALL).push(*meta, packet, 1, 1, &mut |_| panic!("nothing is written"));
    assert_eq!(refused, Err(DropReason::BadMeta));
}

#[test]
fn a_partial_checksum_in_an_unknown_place_is_completed_by_the_sender() {
    // VXLAN: the partial checksum is the inner packet's.
    let (_, mut packet) = super_packet(false, false, 100, 100, 0);
    packet[26..28].fill(0);
    let header =
        VnetHeader { needs_checksum: true, checksum_start: 70, checksum_offset: 16, ..VnetHeader::PLAIN };
    let packets = cut(&header, &packet);
    assert_eq!(packets[0].1[..86], packet[..86]);
    assert_ne!(packets[0].1[86..88], packet[86..88]);
    let outside = VnetHeader { checksum_start: 127, ..header };
    assert_eq!(Cut::new(&outside, &packet).err(), Some(DropReason::BadFrame));
}

#[test]
fn udp_without_a_checksum_is_given_one_and_joined() {
    let (_, mut packet) = super_packet(false, false, 100, 100, 0);
    packet[26..28].fill(0);
    let inner =
        VnetHeader { needs_checksum: true, checksum_start: 70, checksum_offset: 16, ..VnetHeader::PLAIN };
    for header in [VnetHeader::PLAIN, inner] {
        let mut packets: Vec<_> = (0..3).flat_map(|_| cut(&header, &packet)).collect();
        let frames = join(&mut packets.clone(), &[1, 2, 3], ALL);
        let [(vnet, joined)] = frames.as_slice() else { panic!("{} frames", frames.len()) };
        assert_eq!((vnet.gso, vnet.gso_size, joined.len()), (Gso::Udp, 100, 28 + 300));
        for (_, alone) in join(&mut packets, &[1, 2, 3], Offloads::NONE) {
            assert!(is_sound(&alone));
        }
    }
    // A length that is not the packet's stays what it is, and so does the packet.
    packet[25] -= 1;
    let mut packets = cut(&VnetHeader::PLAIN, &packet);
    assert_eq!(join(&mut packets, &[1], ALL), [(VnetHeader::PLAIN, packet)]);
}
