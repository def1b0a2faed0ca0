//! What two tunnels say to each other in sealed control datagrams.

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Answer to the address this came from.
    Probe(u64),
    /// The answer, with the probe's number.
    ProbeAck(u64),
    /// The first message of a handshake for the successor of this session.
    Rekey(Vec<u8>),
    /// The answer to it.
    RekeyAnswer(Vec<u8>),
    /// The sender forgets this session now.
    Close,
}

impl Message {
    /// The plaintext of the datagram.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, body): (u8, &[u8]) = match self {
            Self::Probe(number) => (1, &number.to_be_bytes()),
            Self::ProbeAck(number) => (2, &number.to_be_bytes()),
            Self::Rekey(bytes) => (3, bytes),
            Self::RekeyAnswer(bytes) => (4, bytes),
            Self::Close => (5, &[]),
        };
        [&[kind], body].concat()
    }

    /// Reads a plaintext; `None` if it is no message that we know. Bytes after a fixed body are ignored (padding).
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, body) = bytes.split_first()?;
        let number = || body.first_chunk().map(|number| u64::from_be_bytes(*number));
        match kind {
            1 => number().map(Self::Probe),
            2 => number().map(Self::ProbeAck),
            3 => Some(Self::Rekey(body.to_vec())),
            4 => Some(Self::RekeyAnswer(body.to_vec())),
            5 => Some(Self::Close),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_fails_and_what_is_read_survives(bytes: Vec<u8>) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
