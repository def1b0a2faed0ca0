//! Where the headers of an IP packet are, and the Internet checksum (RFC 1071).

use std::ops::Range;

/// The transport protocols whose super-packets and partial checksums are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where the checksum is in the header.
    pub(super) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// A packet with a plain IP header and a TCP or UDP header, both whole: no fragment, no IPv6 extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) v6: bool,
    pub(super) transport: Transport,
    /// Where the transport header begins.
    pub(super) start: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
}

/// The longest pair of headers: IPv4 and TCP with all options.
pub(super) const MAX_HEADERS: usize = 120;

impl Layout {
    /// Reads the layout of a packet; `None` if it is of another kind.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (v6, start, protocol) = match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                let length = usize::from(header[0] & 0xf) * 4;
                if fragment || length < 20 {
                    return None;
                }
                (false, length, header[9])
            }
            6 => (true, 40, packet.first_chunk::<40>()?[6]),
            _ => return None,
        };
        let (transport, header) = match protocol {
            6 => (Transport::Tcp, usize::from(packet.get(start + 12)? >> 4) * 4),
            17 => (Transport::Udp, 8),
            _ => return None,
        };
        let payload = start + header;
        let whole = header >= if transport == Transport::Tcp { 20 } else { 8 } && payload <= packet.len();
        whole.then_some(Self { v6, transport, start, payload })
    }

    /// The L4 checksum field.
    pub(super) fn checksum(&self) -> Range<usize> {
        let at = self.start + self.transport.checksum_offset();
        at..at + 2
    }

    /// The TCP sequence number's field.
    pub(super) fn sequence(&self) -> Range<usize> {
        self.start + 4..self.start + 8
    }

    /// Where TCP's flags are.
    pub(super) fn flags(&self) -> usize {
        self.start + 13
    }

    /// Writes every length (and IPv4's checksum) for a packet whose headers are in `headers` and which has `length`
    /// bytes in all; puts the pseudo-header's sum into the checksum field, as a partial checksum has it.
    pub(super) fn set_length(&self, headers: &mut [u8], length: usize) {
        if self.v6 {
            headers[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        } else {
            headers[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            headers[10..12].fill(0);
            let sum = !fold(sum(&headers[..self.start], 0));
            headers[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let transport_length = length - self.start;
        if self.transport == Transport::Udp {
            headers[self.start + 4..self.start + 6].copy_from_slice(&(transport_length as u16).to_be_bytes());
        }
        let addresses = if self.v6 { &headers[8..40] } else { &headers[12..20] };
        let pseudo = sum(addresses, transport_length as u32 + u32::from(self.transport.number()));
        headers[self.checksum()].copy_from_slice(&fold(pseudo).to_be_bytes());
    }
}

/// Completes a partial checksum: `packet[start..]` is summed, with what is in the field, into the field.
pub(super) fn complete(packet: &mut [u8], start: usize, field: usize) {
    let sum = match !fold(sum(&packet[start..], 0)) {
        // For UDP zero means "none"; for TCP both forms are the same number.
        0 => 0xffff,
        sum => sum,
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn sum(bytes: &[u8], initial: u32) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let words: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    let total = words + last + u64::from(initial);
    (total & 0xffff_ffff) as u32 + (total >> 32) as u32
}

pub(super) fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
