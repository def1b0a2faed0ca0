//! Streams of packets, one way, from the side that opened the stream: `[length 2, big endian][bytes]` each.

use std::{collections::VecDeque, io};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, io::BufReader};
use libp2p::Stream;

use super::{
    RequestError,
    streams::{OpenError, Opener, Purpose},
};

/// Bytes read ahead: what one write of the other side brings.
const AHEAD: usize = 64 << 10;

/// The end that sends.
#[derive(Debug)]
pub struct PacketWriter(Stream);

/// The end that receives.
#[derive(Debug)]
pub struct PacketReader(BufReader<Stream>);

pub(super) async fn open(opener: Option<Opener>) -> Result<PacketWriter, RequestError> {
    let opener = opener.ok_or(RequestError::NotConnected)?;
    opener.open(Purpose::Packets).await.map(PacketWriter).map_err(|error| match error {
        OpenError::Unsupported => RequestError::Unknown,
        OpenError::Lost => RequestError::NotConnected,
    })
}

impl PacketWriter {
    /// Sends packets, each of at most 65,535 bytes, together. Waits while the other side does not read.
    ///
    /// # Errors
    /// The stream has ended, or a packet is too long.
    pub async fn send(&mut self, packets: &VecDeque<Vec<u8>>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(packets.iter().map(|packet| 2 + packet.len()).sum());
        for packet in packets {
            let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
            bytes.extend(length.to_be_bytes());
            bytes.extend(packet);
        }
        self.0.write_all(&bytes).await?;
        self.0.flush().await
    }

    /// Returns when the other side has closed the stream, or the connection has ended.
    pub async fn closed(&mut self) {
        // It has nothing to say.
        while let Ok(1..) = self.0.read(&mut [0; 64]).await {}
    }
}

impl PacketReader {
    pub(super) fn new(stream: Stream) -> Self {
        Self(BufReader::with_capacity(AHEAD, stream))
    }

    /// Waits for the next packet and puts it into `packet`.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn receive(&mut self, packet: &mut Vec<u8>) -> io::Result<()> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).await?;
        packet.resize(usize::from(u16::from_be_bytes(length)), 0);
        self.0.read_exact(packet).await
    }
}
