//! The virtio-net header before every frame of the interface (virtio 1.4, 5.1.6, little-endian on our machines), with the
//! fields for super-packets in a UDP tunnel, which Linux has from 6.17 on (`struct virtio_net_hdr_v1_hash_tunnel`).

/// Bytes of the header. Kernels that do not know its last fields leave them alone.
pub const VNET_HEADER: usize = 24;

const NEEDS_CHECKSUM: u8 = 1;
const OUTER_CHECKSUM: u8 = 8;
const OUTER_V4: u8 = 0x20;
const OUTER_V6: u8 = 0x40;

/// What kind of super-packet a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// One packet.
    None,
    /// TCP over IPv4, to be cut.
    Tcp4,
    /// TCP over IPv6, to be cut.
    Tcp6,
    /// UDP, to be cut into datagrams.
    Udp,
    /// One that we did not ask for.
    Other,
}

/// Where the packets of a super-packet have their second pair of headers: they are packets in a UDP tunnel (VXLAN,
/// Geneve).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Whether the outer addresses are IPv6.
    pub v6: bool,
    /// Whether the outer UDP header has a checksum.
    pub checksum: bool,
    /// Where the outer UDP header begins.
    pub udp: u16,
    /// Where the inner IP header begins.
    pub inner: u16,
}

/// The header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnetHeader {
    /// Whether the checksum at `checksum_start + checksum_offset` is partial.
    pub needs_checksum: bool,
    /// What kind of super-packet.
    pub gso: Gso,
    /// Bytes of the headers that each packet cut from a super-packet begins with.
    pub header_length: u16,
    /// Bytes of payload of each packet but the last.
    pub gso_size: u16,
    /// Where the sum begins, from the start of the packet.
    pub checksum_start: u16,
    /// Where it is written, from there.
    pub checksum_offset: u16,
    /// A super-packet in a UDP tunnel; all the other fields are about what is inside.
    pub encapsulation: Option<Encapsulation>,
}

impl VnetHeader {
    /// The header of a packet that is whole.
    pub const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_length: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
        encapsulation: None,
    };

    /// Reads the header.
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let outer = bytes[1] & (OUTER_V4 | OUTER_V6);
        Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            gso: match bytes[1] & !outer {
                0 => Gso::None,
                1 => Gso::Tcp4,
                4 => Gso::Tcp6,
                5 => Gso::Udp,
                _ => Gso::Other,
            },
            header_length: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
            encapsulation: (outer != 0).then(|| Encapsulation {
                v6: outer & OUTER_V6 != 0,
                checksum: bytes[0] & OUTER_CHECKSUM != 0,
                udp: word(20),
                inner: word(22),
            }),
        }
    }

    /// Writes the header. [`Gso::Other`] is written as none.
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None | Gso::Other => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        for (at, word) in
            [(2, self.header_length), (4, self.gso_size), (6, self.checksum_start), (8, self.checksum_offset)]
        {
            bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(outer) = self.encapsulation {
            bytes[0] |= if outer.checksum { OUTER_CHECKSUM } else { 0 };
            bytes[1] |= if outer.v6 { OUTER_V6 } else { OUTER_V4 };
            bytes[20..22].copy_from_slice(&outer.udp.to_le_bytes());
            bytes[22..24].copy_from_slice(&outer.inner.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_interface() {
        let outer = |v6| Encapsulation { v6, checksum: v6, udp: 20, inner: 50 };
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            for encapsulation in [None, Some(outer(false)), Some(outer(true))] {
                let header = VnetHeader {
                    needs_checksum: true,
                    gso,
                    header_length: 52,
                    gso_size: 1368,
                    checksum_start: 20,
                    checksum_offset: 16,
                    encapsulation,
                };
                assert_eq!(VnetHeader::decode(&header.encode()), header);
            }
        }
        assert_eq!(VnetHeader::decode(&VnetHeader::PLAIN.encode()), VnetHeader::PLAIN);
    }
}
