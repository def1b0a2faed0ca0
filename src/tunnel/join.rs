//! From packets that follow each other back to one super-packet, as a network card does (GRO): the first one's headers,
//! the payloads where they lie.
//!
//! Only packets with consecutive counters, equal headers and sequence numbers in step are joined; there is no flow
//! table. What the sender's meta says is checked against the packet before the kernel sees it: the sender is
//! a member, and may be a hostile one.

use std::io::IoSlice;

use super::{
    DropReason,
    headers::{Headers, MAX_HEADERS},
    layout::{Transport, checksum, complete, sum},
    pad::{PAD, pad},
    vnet::{Gso, VnetHeader},
    wire::Meta,
};

/// Most packets of one super-packet.
const MAX_PARTS: usize = 64;
/// The longest IP packet.
const MAX_LENGTH: usize = 65_535;

/// What the interface takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums and TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets as well.
    pub udp: bool,
    /// Super-packets in a UDP tunnel (VXLAN, Geneve) as well.
    pub encapsulated: bool,
}

impl Offloads {
    /// Whole packets with complete checksums only.
    pub const NONE: Self = Self { tcp: false, udp: false, encapsulated: false };
    /// All of them.
    pub const ALL: Self = Self { tcp: true, udp: true, encapsulated: true };
}

/// Where frames go: the virtio-net header, then the parts of the packet.
pub type Frame<'f> = &'f [IoSlice<'f>];

/// Joins packets; each must be given to [`Joiner::push`] in the order received, and [`Joiner::flush`] ends a batch.
pub struct Joiner<'p> {
    offloads: Offloads,
    train: Option<Train<'p>>,
}

struct Train<'p> {
    headers: Headers,
    /// Those of the first packet.
    head: [u8; MAX_HEADERS],
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
        let mut headers = Headers::as_said(packet, meta).ok_or(DropReason::BadMeta)?;
        if let Some(outer) = headers.outer.filter(|_| !self.offloads.encapsulated) {
            // Whoever takes it out of the tunnel finds it whole; what is left to do is the tunnel's.
            finish(&headers, packet);
            headers = Headers { outer: None, inner: outer };
        }
        if !self.offloads.tcp {
            finish(&headers, packet);
            write(&[IoSlice::new(&VnetHeader::PLAIN.encode()), IoSlice::new(packet)]);
            return Ok(());
        }
        let packet: &'p [u8] = packet;
        if self.extend(&headers, packet, lane, counter) {
            if packet.len() - headers.length() < self.train.as_ref().map_or(0, |train| train.gso_size) {
                self.flush(write);
            }
            return Ok(());
        }
        self.flush(write);
        self.begin(headers, packet, lane, counter);
        let udp_alone = headers.inner.transport == Transport::Udp && !self.offloads.udp;
        if udp_alone || headers.is_alone(packet) {
            self.flush(write);
        }
        Ok(())
    }

    /// Writes what was joined so far.
    pub fn flush(&mut self, write: &mut impl FnMut(Frame<'_>)) {
        let Some(Train { mut headers, mut head, gso_size, parts, count, payload, .. }) = self.train.take()
        else {
            return;
        };
        let (many, all) = (count > 1, headers.length());
        headers.set_length(&mut head, all + payload);
        if let Some(outer) = headers.outer.filter(|_| !many) {
            // The kernel hears of tunnels with super-packets alone.
            let Headers { inner, .. } = headers;
            let checksum = checksum(sum(parts[0], sum(&head[inner.start..all], 0)));
            head[inner.checksum()].copy_from_slice(&checksum.to_be_bytes());
            outer.set_length(&mut head, all + payload);
            headers = Headers { outer: None, inner: outer };
        }
        let mut vnet = VnetHeader {
            needs_checksum: true,
            gso: if many { headers.gso() } else { Gso::None },
            header_length: headers.length() as u16,
            gso_size: if many { gso_size as u16 } else { 0 },
            checksum_start: headers.inner.start as u16,
            checksum_offset: headers.inner.transport.checksum_offset() as u16,
            encapsulation: headers.encapsulation(&head),
        };
        let padded;
        let head = if let Some(outer) = headers.outer {
            padded = pad(&outer, &head, &mut vnet);
            &padded[..all + PAD]
        } else {
            &head[..all]
        };
        let vnet = vnet.encode();
        let mut frame = [IoSlice::new(&[]); 2 + MAX_PARTS];
        frame[0] = IoSlice::new(&vnet);
        frame[1] = IoSlice::new(head);
        for (slot, part) in frame[2..].iter_mut().zip(&parts[..count]) {
            *slot = IoSlice::new(part);
        }
        write(&frame[..2 + count]);
    }

    fn begin(&mut self, headers: Headers, packet: &'p [u8], lane: u64, counter: u64) {
        let (first, payload) = packet.split_at(headers.length());
        let mut head = [0; MAX_HEADERS];
        head[..first.len()].copy_from_slice(first);
        let mut parts: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        parts[0] = payload;
        self.train = Some(Train {
            headers,
            head,
            gso_size: payload.len(),
            parts,
            count: 1,
            payload: payload.len(),
            lane,
            next_counter: counter.wrapping_add(1),
        });
    }

    /// Adds a packet to the train if it is its continuation.
    fn extend(&mut self, headers: &Headers, packet: &'p [u8], lane: u64, counter: u64) -> bool {
        let Some(train) = &mut self.train else { return false };
        let (head, payload) = packet.split_at(headers.length());
        let longest = MAX_LENGTH - if headers.outer.is_some() { PAD } else { 0 };
        let continues = *headers == train.headers
            && (lane, counter) == (train.lane, train.next_counter)
            && train.count < MAX_PARTS
            && !payload.is_empty()
            && payload.len() <= train.gso_size
            && headers.length() + train.payload + payload.len() <= longest
            && headers.follows(&train.head, head, train.payload);
        if !continues {
            return false;
        }
        headers.take_last_flags(&mut train.head, head);
        train.parts[train.count] = payload;
        train.count += 1;
        train.payload += payload.len();
        train.next_counter = counter.wrapping_add(1);
        true
    }
}

/// Writes the lengths and the checksum of the packet itself, or of what is inside a tunnel.
fn finish(headers: &Headers, packet: &mut [u8]) {
    let Headers { inner, .. } = headers;
    let length = packet.len();
    inner.set_length(packet, length);
    complete(packet, inner.start, inner.checksum().start);
}
