//! From the packets of a train back to one super-packet: the first one's headers, the payloads where they lie. Single
//! packets of one flow that follow each other are joined as well, as a network card does (GRO).
//!
//! Only packets with consecutive counters, flags in order, equal headers and sequence numbers in step are joined; there
//! is no flow table. What the sender's meta says is checked against the packet before the kernel sees it: the sender is
//! a member, and may be a hostile one.

use std::io::IoSlice;

use super::{
    DropReason,
    layout::{Layout, MAX_HEADERS, Transport, complete},
    vnet::{Gso, VNET_HEADER, VnetHeader},
    wire::Meta,
};

/// Most packets of one super-packet.
const MAX_PARTS: usize = 64;
/// The longest IP packet.
const MAX_LENGTH: usize = 65_535;
/// TCP flags that only the last packet of a train may have.
const LAST_FLAGS: u8 = 0x09;
const CWR: u8 = 0x80;

/// What the interface takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums and TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets as well.
    pub udp: bool,
}

impl Offloads {
    /// Whole packets with complete checksums only.
    pub const NONE: Self = Self { tcp: false, udp: false };
}

/// Where frames go: the virtio-net header, then the parts of the packet.
pub type Frame<'f> = &'f [IoSlice<'f>];

/// Joins packets; each must be given to [`Joiner::push`] in the order received, and [`Joiner::flush`] ends a batch.
pub struct Joiner<'p> {
    offloads: Offloads,
    train: Option<Train<'p>>,
}

struct Train<'p> {
    layout: Layout,
    headers: [u8; MAX_HEADERS],
    /// Payload bytes of the first packet: all but the last have as many.
    gso_size: usize,
    parts: [&'p [u8]; MAX_PARTS],
    count: usize,
    payload: usize,
    /// Identifies the sending session's queue, and the counter that has to come next.
    lane: u64,
    next_counter: u64,
}

impl<'p> Joiner<'p> {
    /// A joiner for an interface that takes `offloads`.
    pub fn new(offloads: Offloads) -> Self {
        Self { offloads, train: None }
    }

    /// Takes the next packet. `lane` names session and queue it came in, `counter` its datagram. Frames that are
    /// complete go to `write`.
    ///
    /// # Errors
    /// [`DropReason::BadMeta`] if what the sender says of the packet is not so.
    pub fn push(
        &mut self,
        meta: Meta,
        packet: &'p mut [u8],
        lane: u64,
        counter: u64,
        write: &mut impl FnMut(Frame<'_>),
    ) -> Result<(), DropReason> {
        if !meta.partial_checksum {
            self.flush(write);
            write(&[IoSlice::new(&VnetHeader::PLAIN.encode()), IoSlice::new(packet)]);
            return Ok(());
        }
        let layout = Layout::of(packet)
            .filter(|layout| layout.start == usize::from(meta.checksum_start))
            .ok_or(DropReason::BadMeta)?;
        if !self.offloads.tcp {
            // The lengths become those of what was authenticated, whatever the headers say.
            let length = packet.len();
            layout.set_length(&mut packet[..layout.payload], length);
            complete(packet, layout.start, layout.checksum().start);
            write(&[IoSlice::new(&VnetHeader::PLAIN.encode()), IoSlice::new(packet)]);
            return Ok(());
        }
        let packet: &'p [u8] = packet;
        if !meta.first && self.extend(&layout, packet, lane, counter) {
            if meta.last || packet.len() - layout.payload < self.train.as_ref().map_or(0, |t| t.gso_size) {
                self.flush(write);
            }
            return Ok(());
        }
        self.flush(write);
        self.begin(layout, packet, lane, counter);
        let udp_alone = layout.transport == Transport::Udp && !self.offloads.udp;
        let congestion = layout.transport == Transport::Tcp && packet[layout.flags()] & CWR != 0;
        if meta.last || udp_alone || congestion || packet.len() == layout.payload {
            self.flush(write);
        }
        Ok(())
    }

    /// Writes what was joined so far.
    pub fn flush(&mut self, write: &mut impl FnMut(Frame<'_>)) {
        let Some(mut train) = self.train.take() else { return };
        let layout = train.layout;
        let headers = &mut train.headers[..layout.payload];
        layout.set_length(headers, layout.payload + train.payload);
        let many = train.count > 1;
        let vnet = VnetHeader {
            needs_checksum: true,
            gso: match (many, layout.transport, layout.v6) {
                (false, ..) => Gso::None,
                (true, Transport::Udp, _) => Gso::Udp,
                (true, Transport::Tcp, false) => Gso::Tcp4,
                (true, Transport::Tcp, true) => Gso::Tcp6,
            },
            header_length: layout.payload as u16,
            gso_size: if many { train.gso_size as u16 } else { 0 },
            checksum_start: layout.start as u16,
            checksum_offset: layout.transport.checksum_offset() as u16,
        };
        let vnet: [u8; VNET_HEADER] = vnet.encode();
        let mut frame = [IoSlice::new(&[]); 2 + MAX_PARTS];
        frame[0] = IoSlice::new(&vnet);
        frame[1] = IoSlice::new(headers);
        for (slot, part) in frame[2..].iter_mut().zip(&train.parts[..train.count]) {
            *slot = IoSlice::new(part);
        }
        write(&frame[..2 + train.count]);
    }

    fn begin(&mut self, layout: Layout, packet: &'p [u8], lane: u64, counter: u64) {
        let (head, payload) = packet.split_at(layout.payload);
        let mut headers = [0; MAX_HEADERS];
        headers[..head.len()].copy_from_slice(head);
        let mut parts: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        parts[0] = payload;
        self.train = Some(Train {
            layout,
            headers,
            gso_size: payload.len(),
            parts,
            count: 1,
            payload: payload.len(),
            lane,
            next_counter: counter.wrapping_add(1),
        });
    }

    /// Adds a packet to the train if it is its continuation.
    fn extend(&mut self, layout: &Layout, packet: &'p [u8], lane: u64, counter: u64) -> bool {
        let Some(train) = &mut self.train else { return false };
        let (head, payload) = packet.split_at(layout.payload);
        let continues = *layout == train.layout
            && (lane, counter) == (train.lane, train.next_counter)
            && train.count < MAX_PARTS
            && !payload.is_empty()
            && payload.len() <= train.gso_size
            && layout.payload + train.payload + payload.len() <= MAX_LENGTH
            && train.continues(head);
        if !continues {
            return false;
        }
        if layout.transport == Transport::Tcp {
            train.headers[layout.flags()] |= head[layout.flags()] & LAST_FLAGS;
        }
        train.parts[train.count] = payload;
        train.count += 1;
        train.payload += payload.len();
        train.next_counter = counter.wrapping_add(1);
        true
    }
}

impl Train<'_> {
    /// Whether `head` differs from the first packet's headers only where packets of one super-packet do.
    fn continues(&self, head: &[u8]) -> bool {
        let layout = &self.layout;
        let mine = &self.headers[..layout.payload];
        let equal = |range: std::ops::Range<usize>| mine[range.clone()] == head[range];
        let ip = if layout.v6 {
            // All but the payload length.
            equal(0..4) && equal(6..40)
        } else {
            // All but total length, identification and checksum.
            equal(0..2) && equal(6..10) && equal(12..layout.start)
        };
        let start = layout.start;
        ip && match layout.transport {
            Transport::Udp => equal(start..start + 4),
            Transport::Tcp => {
                let sequence = |bytes: &[u8]| {
                    let field = &bytes[layout.sequence()];
                    u32::from_be_bytes([field[0], field[1], field[2], field[3]])
                };
                let (flags, other) = (mine[layout.flags()], head[layout.flags()]);
                equal(start..start + 4)
                    && equal(start + 8..start + 13)
                    && equal(start + 14..start + 16)
                    && equal(start + 18..layout.payload)
                    && flags & LAST_FLAGS == 0
                    && flags | LAST_FLAGS == other | LAST_FLAGS
                    && sequence(head) == sequence(mine).wrapping_add(self.payload as u32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::{
        cut::Cut,
        layout::{fold, sum},
    };

    const ALL: Offloads = Offloads { tcp: true, udp: true };

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
        };
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

    fn join(
        packets: &mut [(Meta, Vec<u8>)],
        counters: &[u64],
        offloads: Offloads,
    ) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut write = |frame: Frame<'_>| {
            let header: [u8; VNET_HEADER] = frame[0].as_ref().try_into().expect("the header alone");
            frames.push((
                VnetHeader::decode(&header),
                frame[1..].iter().flat_map(|part| part.to_vec()).collect(),
            ));
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
}
