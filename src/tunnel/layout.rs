//! Where an IP header and the transport header after it are, and the Internet checksum (RFC 1071).

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

/// A plain IP header and a TCP or UDP header, both whole: no fragment, no IPv6 extension headers. All places are from
/// the start of the packet, which may have other headers before these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) v6: bool,
    pub(super) transport: Transport,
    /// Where the IP header begins.
    pub(super) ip: usize,
    /// Where the transport header begins.
    pub(super) start: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
}

impl Layout {
    /// Reads the layout of a packet; `None` if it is of another kind.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        Self::at(packet, 0)
    }

    /// Reads the layout of what begins at `ip`; `None` if it is of another kind.
    pub(super) fn at(packet: &[u8], ip: usize) -> Option<Self> {
        let from_ip = packet.get(ip..)?;
        let (v6, length, protocol) = match from_ip.first()? >> 4 {
            4 => {
                let header = from_ip.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                let length = usize::from(header[0] & 0xf) * 4;
                if fragment || length < 20 {
                    return None;
                }
                (false, length, header[9])
            }
            6 => (true, 40, from_ip.first_chunk::<40>()?[6]),
            _ => return None,
        };
        let start = ip + length;
        let (transport, header) = match protocol {
            6 => (Transport::Tcp, usize::from(packet.get(start + 12)? >> 4) * 4),
            17 => (Transport::Udp, 8),
            _ => return None,
        };
        let payload = start + header;
        let whole = header >= if transport == Transport::Tcp { 20 } else { 8 } && payload <= packet.len();
        whole.then_some(Self { v6, transport, ip, start, payload })
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

    /// Writes every length (and IPv4's checksum) for a packet whose headers are in `headers` and that ends at `end`;
    /// puts the pseudo-header's sum into the checksum field, as a partial checksum has it.
    pub(super) fn set_length(&self, headers: &mut [u8], end: usize) {
        let ip = &mut headers[self.ip..self.start];
        let addresses = if self.v6 {
            ip[4..6].copy_from_slice(&((end - self.start) as u16).to_be_bytes());
            8..40
        } else {
            ip[2..4].copy_from_slice(&((end - self.ip) as u16).to_be_bytes());
            ip[10..12].fill(0);
            let checksum = !fold(sum(ip, 0));
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            12..20
        };
        let length = end - self.start;
        let pseudo = sum(&ip[addresses], length as u32 + u32::from(self.transport.number()));
        if self.transport == Transport::Udp {
            headers[self.start + 4..self.start + 6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        headers[self.checksum()].copy_from_slice(&fold(pseudo).to_be_bytes());
    }
}

/// Completes a partial checksum: `packet[start..]` is summed, with what is in the field, into the field.
pub(super) fn complete(packet: &mut [u8], start: usize, field: usize) {
    let checksum = checksum(sum(&packet[start..], 0));
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum of what has this sum.
pub(super) fn checksum(sum: u32) -> u16 {
    match !fold(sum) {
        // For UDP zero means "none"; for TCP both forms are the same number.
        0 => 0xffff,
        checksum => checksum,
    }
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
