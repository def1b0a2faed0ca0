//! The virtio-net header before every frame of the interface (virtio 1.2, 5.1.6, little-endian on our machines).

/// Bytes of the header.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

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
    };

    /// Reads the header.
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            gso: match bytes[1] {
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
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_interface() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            let header = VnetHeader {
                needs_checksum: true,
                gso,
                header_length: 52,
                gso_size: 1368,
                checksum_start: 20,
                checksum_offset: 16,
            };
            assert_eq!(VnetHeader::decode(&header.encode()), header);
        }
        assert_eq!(VnetHeader::decode(&VnetHeader::PLAIN.encode()), VnetHeader::PLAIN);
    }
}
