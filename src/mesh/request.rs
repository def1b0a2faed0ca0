//! Requests: one stream each, `[length 4][bytes]` there and back.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    MAXIMUM_REQUEST, MeshEvent, REQUEST_TIMEOUT, RequestKind,
    streams::{OpenError, Opener, Purpose},
};
use crate::identity::NodeId;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such neighbour.
    #[error("the peer is not connected")]
    NotConnected,
    /// The request, or its answer, is longer than [`MAXIMUM_REQUEST`].
    #[error("a request and its answer have at most {MAXIMUM_REQUEST} bytes")]
    Size,
    /// It does not know this kind: an older version.
    #[error("the peer does not know this kind of request: is its version older?")]
    Unknown,
    /// It closed the stream without an answer.
    #[error("the peer refused the request, or the connection was lost")]
    Refused,
    /// No answer in time.
    #[error("no answer from the peer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

pub(super) async fn ask(
    opener: Option<Opener>,
    kind: RequestKind,
    bytes: Vec<u8>,
) -> Result<Vec<u8>, RequestError> {
    let opener = opener.ok_or(RequestError::NotConnected)?;
    if bytes.len() > MAXIMUM_REQUEST {
        return Err(RequestError::Size);
    }
    let exchange = async {
        let opened = async { Ok((opener.turn().await?, opener.open(Purpose::Request(kind)).await?)) };
        let (_turn, mut stream) = opened.await.map_err(|error| match error {
            OpenError::Unsupported => RequestError::Unknown,
            OpenError::Lost => RequestError::NotConnected,
        })?;
        write(&mut stream, &bytes).await?;
        read(&mut stream).await
    };
    timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or(Err(RequestError::Timeout))
}

/// Serves one inbound request. It waits until the neighbour was announced, so that `PeerUp` comes first.
pub(super) async fn serve(
    mut stream: Stream,
    from: NodeId,
    kind: RequestKind,
    mut announced: watch::Receiver<bool>,
    events: mpsc::Sender<MeshEvent>,
) -> Result<(), RequestError> {
    let exchange = async {
        let bytes = read(&mut stream).await?;
        announced.wait_for(|announced| *announced).await.map_err(|_| RequestError::NotConnected)?;
        let (reply, answer) = oneshot::channel();
        let event = MeshEvent::Request { from, kind, bytes, reply };
        events.send(event).await.map_err(|_| RequestError::Refused)?;
        let answer = answer.await.map_err(|_| RequestError::Refused)?;
        write(&mut stream, &answer).await
    };
    timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or(Err(RequestError::Timeout))
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), RequestError> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MAXIMUM_REQUEST);
    let length = length.ok_or(RequestError::Size)?.to_be_bytes();
    let sent = async {
        stream.write_all(&length).await?;
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    sent.await.map_err(|_| RequestError::Refused)
}

async fn read(stream: &mut Stream) -> Result<Vec<u8>, RequestError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|_| RequestError::Refused)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAXIMUM_REQUEST {
        return Err(RequestError::Size);
    }
    // As it comes, so that a length alone costs no memory.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await.map_err(|_| RequestError::Refused)?;
    if bytes.len() == length { Ok(bytes) } else { Err(RequestError::Refused) }
}
