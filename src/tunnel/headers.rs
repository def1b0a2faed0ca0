//! All headers of a packet that super-packets are made of: IP and TCP or UDP, and, where that is a packet in a UDP tunnel
//! (VXLAN, Geneve), the tunnel's own before them.

use std::ops::Range;

use super::{
    layout::{Layout, Transport},
    vnet::{Encapsulation, Gso},
    wire::{MAX_ENCAPSULATION, Meta},
};

/// Room for the headers of any packet: IPv4 with all options, UDP, VXLAN, Ethernet with two VLANs, IPv4 and TCP with all
/// options.
pub(super) const MAX_HEADERS: usize = 60 + 8 + 8 + 22 + 120;

/// TCP's FIN.
const FIN: u8 = 0x01;
/// TCP's FIN and PSH: of a super-packet's packets only the last one has them.
const LAST_FLAGS: u8 = FIN | 0x08;
/// TCP's CWR: only the first one has it.
const FIRST_FLAGS: u8 = 0x80;

/// Where the headers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    /// The tunnel's.
    pub(super) outer: Option<Layout>,
    /// Those that the packet's super-packet is cut by.
    pub(super) inner: Layout,
}

impl Headers {
    /// Reads those of a packet that is in no tunnel; `None` if it is of another kind.
    pub(super) fn plain(packet: &[u8]) -> Option<Self> {
        Layout::of(packet).map(|inner| Self { outer: None, inner })
    }

    /// Reads those of a packet in a UDP tunnel, whose inner IP header begins at `ip`; `None` if it is of another kind.
    pub(super) fn encapsulated(packet: &[u8], ip: usize) -> Option<Self> {
        let outer = Layout::of(packet).filter(|outer| outer.transport == Transport::Udp)?;
        let between = ip.checked_sub(outer.payload)?;
        let inner = Layout::at(packet, ip)?;
        let fits = between <= usize::from(MAX_ENCAPSULATION) && inner.payload <= MAX_HEADERS;
        fits.then_some(Self { outer: Some(outer), inner })
    }

    /// Reads those that the sender's `meta` speaks of; `None` if there are none such.
    pub(super) fn as_said(packet: &[u8], meta: Meta) -> Option<Self> {
        match meta.encapsulation {
            None => Self::plain(packet),
            Some(between) => Self::encapsulated(packet, Layout::of(packet)?.payload + usize::from(between)),
        }
        .filter(|headers| headers.inner.start == usize::from(meta.checksum_start))
    }

    /// What the receiver is told of a packet with these headers.
    pub(super) fn meta(&self) -> Meta {
        Meta {
            partial_checksum: true,
            checksum_start: self.inner.start as u16,
            encapsulation: self.outer.map(|outer| (self.inner.ip - outer.payload) as u8),
        }
    }

    /// Bytes of all of them: where the payload begins.
    pub(super) fn length(&self) -> usize {
        self.inner.payload
    }

    /// What a super-packet with these headers is to the kernel.
    pub(super) fn gso(&self) -> Gso {
        match (self.inner.transport, self.inner.v6) {
            (Transport::Udp, _) => Gso::Udp,
            (Transport::Tcp, false) => Gso::Tcp4,
            (Transport::Tcp, true) => Gso::Tcp6,
        }
    }

    /// Turns the headers of a super-packet into those of its packet `index` of `gso_size` bytes of payload, all but the
    /// lengths and checksums.
    pub(super) fn make_part(&self, headers: &mut [u8], index: usize, gso_size: usize, last: bool) {
        for layout in self.both().filter(|layout| !layout.v6) {
            let field = &mut headers[layout.ip + 4..layout.ip + 6];
            let id = u16::from_be_bytes([field[0], field[1]]).wrapping_add(index as u16);
            field.copy_from_slice(&id.to_be_bytes());
        }
        let inner = &self.inner;
        if inner.transport == Transport::Tcp {
            let next = sequence(inner, headers).wrapping_add((index * gso_size) as u32);
            headers[inner.sequence()].copy_from_slice(&next.to_be_bytes());
            let flags = &mut headers[inner.flags()];
            *flags &= !if last { 0 } else { LAST_FLAGS };
            *flags &= !if index == 0 { 0 } else { FIRST_FLAGS };
        }
    }

    /// Whether `next` are the headers of the packet that follows `payload` bytes after `first`: different only where
    /// packets of one super-packet are.
    pub(super) fn follows(&self, first: &[u8], next: &[u8], payload: usize) -> bool {
        let equal = |range: Range<usize>| first[range.clone()] == next[range];
        // All but lengths, IPv4's identification and checksums.
        let ip = |layout: &Layout| {
            let at = layout.ip;
            if layout.v6 {
                equal(at..at + 4) && equal(at + 6..at + 40)
            } else {
                equal(at..at + 2) && equal(at + 6..at + 10) && equal(at + 12..layout.start)
            }
        };
        let ports = |layout: &Layout| equal(layout.start..layout.start + 4);
        let outer = self
            .outer
            .is_none_or(|outer| ip(&outer) && ports(&outer) && equal(outer.checksum().start..self.inner.ip));
        let inner = &self.inner;
        let start = inner.start;
        outer
            && ip(inner)
            && ports(inner)
            && match inner.transport {
                Transport::Udp => true,
                Transport::Tcp => {
                    let (flags, other) = (first[inner.flags()], next[inner.flags()]);
                    equal(start + 8..start + 13)
                        && equal(start + 14..start + 16)
                        && equal(start + 18..inner.payload)
                        // Not at PSH: it says "do not wait for more", and nobody waits here. Linux puts it on every
                        // super-packet of a bulk transfer.
                        && flags & FIN == 0
                        && flags | LAST_FLAGS == other | LAST_FLAGS
                        && sequence(inner, next) == sequence(inner, first).wrapping_add(payload as u32)
                }
            }
    }

    /// Gives `first` what only the last packet of a super-packet has, from its headers `last`.
    pub(super) fn take_last_flags(&self, first: &mut [u8], last: &[u8]) {
        if self.inner.transport == Transport::Tcp {
            first[self.inner.flags()] |= last[self.inner.flags()] & LAST_FLAGS;
        }
    }

    /// Whether a packet with these headers goes on with no other, nor another with it.
    pub(super) fn is_alone(&self, packet: &[u8]) -> bool {
        let congestion =
            self.inner.transport == Transport::Tcp && packet[self.inner.flags()] & FIRST_FLAGS != 0;
        congestion || packet.len() == self.inner.payload
    }

    /// Writes every length and IPv4 checksum for a packet of `length` bytes in all, whose headers are in `headers`; its
    /// transport checksums become partial ones. A tunnel that had none stays without.
    pub(super) fn set_length(&self, headers: &mut [u8], length: usize) {
        self.inner.set_length(headers, length);
        if let Some(outer) = self.outer {
            let without = headers[outer.checksum()] == [0, 0];
            outer.set_length(headers, length);
            if without {
                headers[outer.checksum()].fill(0);
            }
        }
    }

    /// What the kernel is told of the tunnel around a super-packet.
    pub(super) fn encapsulation(&self, headers: &[u8]) -> Option<Encapsulation> {
        self.outer.map(|outer| Encapsulation {
            v6: outer.v6,
            checksum: headers[outer.checksum()] != [0, 0],
            udp: outer.start as u16,
            inner: self.inner.ip as u16,
        })
    }

    fn both(&self) -> impl Iterator<Item = Layout> {
        self.outer.into_iter().chain([self.inner])
    }
}

fn sequence(layout: &Layout, headers: &[u8]) -> u32 {
    let field = &headers[layout.sequence()];
    u32::from_be_bytes([field[0], field[1], field[2], field[3]])
}
