//! The link stream of a connection: proof of the token, who stays, then messages both ways.
//!
//! ```text
//!  dialler                                    dialled
//!     <------ challenge ------ proof ------> answer ---      [length 1][bytes] each, see token::admission
//!     <------- hello (port, full) --- hello --------->       frames from here on
//!     lower id: stay ------------------------> higher id     or the connection closes: another one stays
//!     <===== messages, beats ======>
//! ```

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    future::{Either, select},
};
use libp2p::{Stream, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep_until, timeout},
};

use super::{
    MAXIMUM_MESSAGE, MeshEvent, Refusal, SendError,
    counters::{self, Counters},
    frame::{self, Hello, Kind, PeerFault},
    streams::{Door, OpenError, Opener, Purpose},
};
use crate::{
    identity::NodeId,
    ledger::rate::Bucket,
    token::{
        Gate, Verdict,
        admission::{AdmissionError, Admitted, Initiator, Responder, Session, VERSION},
    },
};

/// Somebody who had nothing to say for this long says so.
const BEAT: Duration = Duration::from_secs(5);
/// Three beats and a little: after so much silence a neighbour is gone.
const SILENCE: Duration = Duration::from_secs(16);
/// A neighbour that does not take our bytes for this long is gone too.
const STALL: Duration = Duration::from_secs(30);
/// Frames of one neighbour that are read at once, and per second. A member of a thousand says less, even while they
/// all start; whoever says more is held by the flow control of its own stream.
const PACE: (u64, u64) = (4096, 1024);
/// For hello and the lower id's choice.
const CHOICE: Duration = Duration::from_secs(5);

/// Those who are up, for whoever sends.
#[derive(Default)]
pub(super) struct Neighbours(Mutex<BTreeMap<NodeId, Neighbour>>);

/// One of them. Dropping it ends its link.
pub(super) struct Neighbour {
    pub(super) connection: ConnectionId,
    pub(super) since: Instant,
    /// Resolves when the owner was told that it is down.
    pub(super) ended: oneshot::Receiver<()>,
    pub(super) queue: mpsc::Sender<Vec<u8>>,
    pub(super) opener: Opener,
}

impl Neighbours {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Neighbour>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    pub(super) fn opener(&self, id: NodeId) -> Option<Opener> {
        self.lock().get(&id).map(|neighbour| neighbour.opener.clone())
    }

    pub(super) fn send(&self, to: NodeId, bytes: Vec<u8>) -> Result<(), SendError> {
        if bytes.is_empty() || bytes.len() > MAXIMUM_MESSAGE {
            return Err(SendError::Size);
        }
        let neighbours = self.lock();
        let neighbour = neighbours.get(&to).ok_or(SendError::NotConnected)?;
        neighbour.queue.try_send(bytes).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
        })
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It never was one.
    Refused(Refusal),
    /// Another connection to the same peer stays.
    Duplicate,
    /// Closed by either side.
    Closed,
    /// Nothing came, or nothing was taken, for too long.
    Silent,
    /// The peer broke the protocol.
    Fault(PeerFault),
}

/// What a link tells the driver.
pub(super) enum Report {
    /// The other side knows this token, and is a member with it.
    Proven(ConnectionId, [u8; 8]),
    /// May this connection stay? With `chosen` the lower id has said so already.
    Choice {
        connection: ConnectionId,
        chosen: bool,
        place: SocketAddr,
        verdict: oneshot::Sender<Option<Stay>>,
    },
    /// The last word.
    Ended(ConnectionId, End),
}

/// What a connection gets that stays.
pub(super) struct Stay {
    /// The link it replaces; its `PeerDown` comes before our `PeerUp`.
    pub(super) predecessor: Option<oneshot::Receiver<()>>,
    pub(super) queue: mpsc::Receiver<Vec<u8>>,
    pub(super) ended: oneshot::Sender<()>,
}

/// What somebody is who has proven a token.
enum Proven {
    /// A member, with this token.
    Member([u8; 8]),
    /// Here for the new token only.
    Errand,
}

/// A connection whose link stream is to be run.
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) me: NodeId,
    pub(super) peer: NodeId,
    pub(super) remote: SocketAddr,
    pub(super) gate: Gate,
    pub(super) hello: Hello,
    pub(super) door: Door,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) announced: watch::Sender<bool>,
    pub(super) counters: Arc<Mutex<Counters>>,
}

impl Link {
    /// The side that dialled: opens the stream.
    pub(super) async fn run_dialler(self, opener: Opener) {
        let end = match opener.open(Purpose::Link).await {
            Ok(mut stream) => match self.prove(&mut stream).await {
                Ok(proven) => self.run_proven(stream, proven).await,
                Err(refusal) => End::Refused(refusal),
            },
            Err(OpenError::Unsupported) => End::Refused(Refusal::OtherProtocol),
            Err(OpenError::Lost) => End::Closed,
        };
        self.finish(end).await;
    }

    /// The side that was dialled: got the stream.
    pub(super) async fn run_dialled(self, mut stream: Stream) {
        let end = match self.challenge(&mut stream).await {
            Ok(proven) => self.run_proven(stream, proven).await,
            Err(refusal) => End::Refused(refusal),
        };
        self.finish(end).await;
    }

    async fn finish(self, end: End) {
        // The driver is gone when the mesh has ended.
        let _ = self.reports.send(Report::Ended(self.connection, end)).await;
    }

    async fn prove(&self, stream: &mut Stream) -> Result<Proven, Refusal> {
        let session = Session { initiator: self.me, responder: self.peer, version: VERSION };
        let initiator = Initiator::new(self.gate.admission_keys(), session, rand::random());
        let challenge = read_short(stream).await.map_err(|_| Refusal::OtherProtocol)?;
        let (proved, proof) = initiator.handle_challenge(&challenge).map_err(refusal)?;
        write_short(stream, &proof).await.map_err(|_| Refusal::ByPeer)?;
        let answer = read_short(stream).await.map_err(|_| Refusal::ByPeer)?;
        self.judge(proved.handle_answer(&answer).map_err(refusal)?)
    }

    async fn challenge(&self, stream: &mut Stream) -> Result<Proven, Refusal> {
        let session = Session { initiator: self.peer, responder: self.me, version: VERSION };
        let (responder, challenge) = Responder::new(self.gate.admission_keys(), session, rand::random());
        write_short(stream, &challenge).await.map_err(|_| Refusal::OtherProtocol)?;
        let proof = read_short(stream).await.map_err(|_| Refusal::OtherProtocol)?;
        let (admitted, answer) = responder.handle_proof(&proof).map_err(refusal)?;
        let proven = self.judge(admitted)?;
        write_short(stream, &answer).await.map_err(|_| Refusal::ByPeer)?;
        Ok(proven)
    }

    /// What the token that it proved makes of the other side. Who is refused is not even answered.
    fn judge(&self, admitted: Admitted) -> Result<Proven, Refusal> {
        let token = self.gate.token_id(admitted.key).ok_or(Refusal::OtherToken)?;
        tracing::debug!(peer = %self.peer, key = admitted.key, "the peer proved the token");
        match self.gate.judge(&self.peer, &token) {
            Verdict::Member => Ok(Proven::Member(token)),
            Verdict::Errand => Ok(Proven::Errand),
            Verdict::Refused if self.gate.is_banned(&self.peer) => Err(Refusal::Banned),
            Verdict::Refused => Err(Refusal::Replaced),
        }
    }

    async fn run_proven(&self, mut stream: Stream, proven: Proven) -> End {
        let Proven::Member(token) = proven else {
            return timeout(CHOICE, self.run_errand(stream)).await.unwrap_or(End::Silent);
        };
        // Before our hello goes out: the other side may ask as soon as it has it.
        self.door.open();
        if self.reports.send(Report::Proven(self.connection, token)).await.is_err() {
            return End::Closed;
        }
        match timeout(CHOICE, self.choose(&mut stream)).await {
            Ok(Ok((stay, place))) => self.run_up(stream, stay, place).await,
            Ok(Err(end)) => end,
            Err(_) => End::Silent,
        }
    }

    /// Gives the other side what the owner has for it, and waits until it hangs up.
    async fn run_errand(&self, mut stream: Stream) -> End {
        let (reply, answer) = oneshot::channel();
        if self.events.send(MeshEvent::Errand { id: self.peer, reply }).await.is_err() {
            return End::Closed;
        }
        if let Ok(bytes) = answer.await
            && bytes.len() <= MAXIMUM_MESSAGE
            && write_frame(&mut stream, Kind::Errand, &bytes).await.is_ok()
        {
            // Closing first could take the frame away from it.
            while read_frame(&mut stream).await.is_ok() {}
        }
        End::Refused(Refusal::Replaced)
    }

    async fn choose(&self, stream: &mut Stream) -> Result<(Stay, SocketAddr), End> {
        write_frame(stream, Kind::Hello, &self.hello.to_bytes()).await?;
        let theirs = match self.read_hello(stream).await {
            // It took our word and left, perhaps before we had its hello.
            Err(End::Closed) if self.hello.full => return Err(End::Refused(Refusal::Full)),
            theirs => theirs?,
        };
        if theirs.full {
            return Err(End::Refused(Refusal::Full));
        }
        if self.hello.full {
            // It leaves when it has read our hello; closing first could take the hello away from it.
            let _ = read_frame(stream).await;
            return Err(End::Refused(Refusal::Full));
        }
        let chosen = self.me > self.peer;
        if chosen {
            self.read_stay(stream).await?;
        }
        let place = SocketAddr::new(self.remote.ip(), theirs.port);
        let (verdict, decided) = oneshot::channel();
        let choice = Report::Choice { connection: self.connection, chosen, place, verdict };
        self.reports.send(choice).await.map_err(|_| End::Closed)?;
        let stay = decided.await.map_err(|_| End::Closed)?.ok_or(End::Duplicate)?;
        Ok((stay, place))
    }

    async fn read_hello(&self, stream: &mut Stream) -> Result<Hello, End> {
        loop {
            match read_frame(stream).await? {
                (Kind::Hello, bytes) => return Hello::parse(&bytes).map_err(End::Fault),
                (Kind::Errand, bytes) => {
                    let _ = self.events.send(MeshEvent::Replaced { from: self.peer, bytes }).await;
                    return Err(End::Refused(Refusal::ByPeer));
                }
                (Kind::Unknown | Kind::Beat, _) => {}
                (Kind::Message | Kind::Stay, _) => return Err(End::Fault(PeerFault::OutOfPlace)),
            }
        }
    }

    async fn read_stay(&self, stream: &mut Stream) -> Result<(), End> {
        loop {
            match read_frame(stream).await.map_err(|_| End::Duplicate)? {
                (Kind::Stay, _) => return Ok(()),
                (Kind::Unknown | Kind::Beat, _) => {}
                (Kind::Message | Kind::Hello | Kind::Errand, _) => {
                    return Err(End::Fault(PeerFault::OutOfPlace));
                }
            }
        }
    }

    async fn run_up(&self, mut stream: Stream, stay: Stay, place: SocketAddr) -> End {
        let Stay { predecessor, mut queue, ended } = stay;
        if let Some(predecessor) = predecessor {
            // An error is as good: it is gone.
            let _ = predecessor.await;
        }
        let up = MeshEvent::PeerUp { id: self.peer, address: place };
        if self.events.send(up).await.is_err() {
            return End::Closed;
        }
        self.announced.send_replace(true);
        let end = 'up: {
            if self.me < self.peer
                && let Err(end) = write_frame(&mut stream, Kind::Stay, &[]).await
            {
                break 'up end;
            }
            let (reader, writer) = stream.split();
            let (read, write) = (self.read_all(reader), self.write_all(writer, &mut queue));
            match select(std::pin::pin!(read), std::pin::pin!(write)).await {
                Either::Left((end, _)) | Either::Right((end, _)) => end,
            }
        };
        let _ = self.events.send(MeshEvent::PeerDown { id: self.peer }).await;
        let _ = ended.send(());
        end
    }

    async fn read_all(&self, mut reader: impl AsyncRead + Unpin) -> End {
        let mut pace = Bucket::full(PACE.0, PACE.1, Instant::now());
        loop {
            if !pace.take(Instant::now()) {
                counters::lock(&self.counters).paced += 1;
                sleep_until(pace.opens_at().into()).await;
                continue;
            }
            let (kind, bytes) = match timeout(SILENCE, read_frame(&mut reader)).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(end)) => return end,
                Err(_) => return End::Silent,
            };
            match kind {
                Kind::Beat | Kind::Unknown => {}
                Kind::Message if bytes.is_empty() => return End::Fault(PeerFault::OutOfPlace),
                Kind::Message => {
                    counters::lock(&self.counters).count_received(bytes.len());
                    if self.events.send(MeshEvent::Message { from: self.peer, bytes }).await.is_err() {
                        return End::Closed;
                    }
                }
                Kind::Hello | Kind::Stay | Kind::Errand => return End::Fault(PeerFault::OutOfPlace),
            }
        }
    }

    async fn write_all(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        queue: &mut mpsc::Receiver<Vec<u8>>,
    ) -> End {
        loop {
            let mut next = match timeout(BEAT, queue.recv()).await {
                Ok(Some(bytes)) => Some(bytes),
                Ok(None) => return End::Closed,
                Err(_) => None,
            };
            let write = async {
                if next.is_none() {
                    writer.write_all(&frame::header(Kind::Beat, 0)).await?;
                }
                while let Some(bytes) = next.take() {
                    writer.write_all(&frame::header(Kind::Message, bytes.len())).await?;
                    writer.write_all(&bytes).await?;
                    counters::lock(&self.counters).count_sent(bytes.len());
                    next = queue.try_recv().ok();
                }
                writer.flush().await
            };
            match timeout(STALL, write).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Closed,
                Err(_) => return End::Silent,
            }
        }
    }
}

fn refusal(error: AdmissionError) -> Refusal {
    match error {
        AdmissionError::Malformed => Refusal::OtherProtocol,
        AdmissionError::OtherToken => Refusal::OtherToken,
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<(Kind, Vec<u8>), End> {
    let mut header = [0; frame::HEADER];
    reader.read_exact(&mut header).await.map_err(|_| End::Closed)?;
    let (kind, length) = frame::parse_header(header).map_err(End::Fault)?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await.map_err(|_| End::Closed)?;
    Ok((kind, bytes))
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> Result<(), End> {
    let mut bytes = frame::header(kind, payload.len()).to_vec();
    bytes.extend_from_slice(payload);
    let sent = async {
        writer.write_all(&bytes).await?;
        writer.flush().await
    };
    sent.await.map_err(|_| End::Closed)
}

/// `[length 1][bytes]`.
async fn read_short(stream: &mut Stream) -> std::io::Result<Vec<u8>> {
    let mut length = [0];
    stream.read_exact(&mut length).await?;
    let mut bytes = vec![0; usize::from(length[0])];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_short(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<()> {
    let mut message = vec![u8::try_from(bytes.len()).expect("messages of admission have at most 160 bytes")];
    message.extend_from_slice(bytes);
    stream.write_all(&message).await?;
    stream.flush().await
}
