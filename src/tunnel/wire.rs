//! The datagram: `[kind 4 bits, flags 4][receiver's session 20 bits, sender's queue 4][counter 64]` in the clear and
//! authenticated, then `AEAD([meta 4][IP packet])` with its 16-byte tag. All numbers big-endian.
//!
//! Over UDP and IPv4 that is 60 bytes around an IP packet, as with WireGuard, hence the same default MTU of 1420.

/// Bytes in the clear before the sealed part; the AEAD's associated data.
pub const HEADER: usize = 12;
/// Sealed bytes before the IP packet of a data datagram.
pub const META: usize = 4;
/// Bytes of the authentication tag.
pub const TAG: usize = 16;
/// What one datagram adds to an IP packet, without UDP and IP.
pub const OVERHEAD: usize = HEADER + META + TAG;
/// The queue number of control datagrams and of the few packets that waited for a session: no fast thread seals
/// with it, so no two threads ever share a counter.
pub const CONTROL_QUEUE: u8 = 15;
/// Most queues (UDP ports, pairs of threads) of one node.
pub const MAX_QUEUES: usize = 4;

/// What a receiver calls a session: 20 bits, chosen by the receiver at random, unique on that node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u32);

impl SessionId {
    /// Takes the lower 20 bits of `number`.
    pub fn from_bits(number: u32) -> Self {
        Self(number & 0xf_ffff)
    }

    /// The number, below 2^20.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// What is sealed inside a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Meta and one IP packet.
    Data,
    /// A message between the two tunnels themselves: probe, rekey, goodbye.
    Control,
}

/// The part in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is inside.
    pub kind: Kind,
    /// The session, as the receiver calls it.
    pub session: SessionId,
    /// The sender's queue, below 16: part of the nonce.
    pub queue: u8,
    /// Number of the datagram within (session, direction, queue).
    pub counter: u64,
}

impl Header {
    /// The 12 bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER] {
        let kind: u8 = match self.kind {
            Kind::Data => 0x10,
            Kind::Control => 0x20,
        };
        let mut bytes = [0; HEADER];
        let word = u32::from(kind) << 24 | self.session.0 << 4 | u32::from(self.queue & 0xf);
        bytes[..4].copy_from_slice(&word.to_be_bytes());
        bytes[4..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Reads the first 12 bytes of a datagram; `None` if it is shorter, of an unknown kind, or has flags that
    /// this version does not know.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (word, rest) = datagram.split_first_chunk::<4>()?;
        let counter = rest.first_chunk::<8>()?;
        let word = u32::from_be_bytes(*word);
        let kind = match word >> 24 {
            0x10 => Kind::Data,
            0x20 => Kind::Control,
            _ => return None,
        };
        Some(Self {
            kind,
            session: SessionId::from_bits(word >> 4),
            queue: (word & 0xf) as u8,
            counter: u64::from_be_bytes(*counter),
        })
    }

    /// The AEAD's nonce: three zero bytes, queue, counter. Each direction of a session has its own key.
    pub(super) fn nonce(queue: u8, counter: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3] = queue;
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

/// What a data datagram says about its packet: `[flags][encapsulation][checksum start 16]`.
///
/// It comes from an authenticated but possibly hostile member, so a reader checks it against the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// The receiver writes the lengths in the packet's headers, IPv4's checksum and the L4 checksum: with
    /// `encapsulation`, those of both pairs of headers.
    pub partial_checksum: bool,
    /// Where the L4 header begins, from the start of the packet; 0 without a partial checksum.
    pub checksum_start: u16,
    /// The packet is one in a UDP tunnel (VXLAN, Geneve), and `checksum_start` is that of the one inside: so many bytes
    /// lie between the outer UDP header and the inner IP header. At most [`MAX_ENCAPSULATION`].
    pub encapsulation: Option<u8>,
}

/// What a UDP tunnel may have before its packets: a byte of the meta, in which 0 stands for no tunnel.
pub const MAX_ENCAPSULATION: u8 = u8::MAX - 1;

impl Meta {
    /// The 4 bytes on the wire.
    pub fn encode(&self) -> [u8; META] {
        let [high, low] = self.checksum_start.to_be_bytes();
        [
            u8::from(self.partial_checksum),
            self.encapsulation.map_or(0, |bytes| bytes.saturating_add(1)),
            high,
            low,
        ]
    }

    /// Reads the 4 bytes; unknown flags are ignored.
    pub fn decode(bytes: [u8; META]) -> Self {
        Self {
            partial_checksum: bytes[0] & 1 != 0,
            checksum_start: u16::from_be_bytes([bytes[2], bytes[3]]),
            encapsulation: bytes[1].checked_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_survives_the_wire(control: bool, session: u32, queue in 0u8..16, counter: u64) {
            let kind = if control { Kind::Control } else { Kind::Data };
            let header = Header { kind, session: SessionId::from_bits(session), queue, counter };
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes: [u8; HEADER]) {
            if let Some(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn meta_survives_the_wire(flags in 0u8..2, encapsulation: u8, start: u16) {
            let [high, low] = start.to_be_bytes();
            let bytes = [flags, encapsulation, high, low];
            prop_assert_eq!(Meta::decode(bytes).encode(), bytes);
        }
    }

    #[test]
    fn no_two_queues_and_counters_share_a_nonce() {
        assert_ne!(Header::nonce(0, 1), Header::nonce(1, 0));
        assert_ne!(Header::nonce(1, 0), Header::nonce(0, 1 << 56));
    }
}
