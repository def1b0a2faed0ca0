//! The frames of a link stream: `[kind 1][length 3, big endian][payload]`.

use super::MAXIMUM_MESSAGE;

/// Bytes before the payload.
pub(super) const HEADER: usize = 4;
/// Room for a message, and for what later versions may add.
const LONGEST: usize = MAXIMUM_MESSAGE;

/// What a frame is. Kinds that this version does not know are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: "I am there".
    Beat,
    /// One message of the owner.
    Message,
    /// First frame of either side: version 2, listening port 2, flags 1 (bit 0: full).
    Hello,
    /// The lower id's choice of this connection.
    Stay,
    /// In the place of a hello, to somebody with a replaced token: what the owner has for it. Then the connection ends.
    Errand,
    /// Of a later version.
    Unknown,
}

/// Why a frame ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerFault {
    /// Longer than a message may be.
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    /// A frame that must not come at this point, or of a wrong length.
    #[error("a frame out of place")]
    OutOfPlace,
}

/// The header of a frame whose payload has `length` bytes, at most [`MAXIMUM_MESSAGE`].
pub(super) fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let code = match kind {
        Kind::Beat => 0,
        Kind::Message => 1,
        Kind::Hello => 2,
        Kind::Stay => 3,
        Kind::Errand => 4,
        Kind::Unknown => 255,
    };
    let length = u32::try_from(length).expect("a message has at most 64 KiB").to_be_bytes();
    [code, length[1], length[2], length[3]]
}

/// Kind and length of the payload that follows.
pub(super) fn parse_header(bytes: [u8; HEADER]) -> Result<(Kind, usize), PeerFault> {
    let kind = match bytes[0] {
        0 => Kind::Beat,
        1 => Kind::Message,
        2 => Kind::Hello,
        3 => Kind::Stay,
        4 => Kind::Errand,
        _ => Kind::Unknown,
    };
    let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
    if length > LONGEST { Err(PeerFault::TooLong(length)) } else { Ok((kind, length)) }
}

/// What either side says of itself once the other is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// Where it listens, TCP and UDP.
    pub(super) port: u16,
    /// It wants no more neighbours.
    pub(super) full: bool,
}

impl Hello {
    const VERSION: u16 = 1;

    pub(super) fn to_bytes(self) -> [u8; 5] {
        let (version, port) = (Self::VERSION.to_be_bytes(), self.port.to_be_bytes());
        [version[0], version[1], port[0], port[1], u8::from(self.full)]
    }

    /// Later versions may append.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PeerFault> {
        let (known, _) = bytes.split_first_chunk::<5>().ok_or(PeerFault::OutOfPlace)?;
        Ok(Self { port: u16::from_be_bytes([known[2], known[3]]), full: known[4] & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_went() {
        for kind in [Kind::Beat, Kind::Message, Kind::Hello, Kind::Stay, Kind::Unknown] {
            for length in [0, 1, 255, 256, 65_535, MAXIMUM_MESSAGE] {
                assert_eq!(parse_header(header(kind, length)), Ok((kind, length)));
            }
        }
    }

    #[test]
    fn a_frame_longer_than_a_message_is_a_fault() {
        assert_eq!(parse_header(header(Kind::Message, 65_537)), Err(PeerFault::TooLong(65_537)));
        assert_eq!(parse_header([1, 0xff, 0xff, 0xff]), Err(PeerFault::TooLong(0xff_ffff)));
    }

    #[test]
    fn a_hello_of_a_later_version_is_understood_and_a_cut_one_is_not() {
        let hello = Hello { port: 4001, full: true };
        let mut bytes = hello.to_bytes().to_vec();
        bytes.extend([1, 2, 3]);
        assert_eq!(Hello::parse(&bytes), Ok(hello));
        assert_eq!(Hello::parse(&bytes[..4]), Err(PeerFault::OutOfPlace));
    }
}
