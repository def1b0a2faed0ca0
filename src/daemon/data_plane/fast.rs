//! The fast threads: packets from the interface to the socket and back. They read the table, decide nothing, and
//! allocate nothing while there is a session.

use std::{
    io::{self, ErrorKind, IoSlice},
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    thread,
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Input, Shared,
    batch::Batch,
    load::{BULK, Duty, Load},
};
use crate::{
    identity::NodeId,
    tun::{Device, MAX_FRAME},
    tunnel::{
        Content, Cut, DropReason, Endpoint, Frame, HEADER, Header, Joiner, META, OVERHEAD, Opener, Sending,
        Session, Table, TablePeer, VNET_HEADER, VnetHeader, clamp_mss, too_big,
    },
    udp::{Received, Socket},
};

/// What is left of a super-packet is sent at once if it is so many packets: more frames would not make the system call
/// any cheaper.
const LONG: usize = 20;
/// Only a packet shorter than this can be a SYN: two headers with all options.
const SYN_LENGTH: usize = VNET_HEADER + 121;
/// The kernel answers so many errors in a row only when the device or socket is gone.
const ERRORS_IN_A_ROW: u32 = 100;

const READ: &str = "read from the interface";
const RECEIVE: &str = "receive from the network";

/// What a thread needs to bring packets from the interface to the socket.
struct Outgoing {
    frame: Vec<u8>,
    batch: Batch,
}

impl Outgoing {
    fn new() -> Self {
        Self { frame: vec![0; MAX_FRAME], batch: Batch::new() }
    }
}

/// One queue.
pub(super) struct Worker<D> {
    pub(super) queue: u8,
    pub(super) device: Arc<D>,
    pub(super) socket: Arc<Socket>,
    pub(super) shared: Arc<Shared>,
    pub(super) control: SyncSender<Input>,
}

impl<D: Device> Worker<D> {
    /// Interface to socket, whenever it is this thread's duty, until stopped.
    ///
    /// Batches without delay: it waits for a frame only when nothing is left to send, and sends when no further frame is
    /// there at once. A long super-packet is a batch of its own.
    pub(super) fn transmit(&self, duty: &Duty) {
        let mut out = Outgoing::new();
        let mut errors = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            if out.batch.is_empty() && !duty.is_apart() {
                thread::park();
                continue;
            }
            let read = if out.batch.is_empty() {
                self.device.read(&mut out.frame).map(Some)
            } else {
                self.device.read_ready(&mut out.frame)
            };
            match read {
                Ok(Some(length)) => {
                    errors = 0;
                    duty.add_transmitted(self.forward(&mut out, length) as u64);
                }
                Ok(None) => self.flush(&mut out.batch),
                Err(error) => {
                    self.flush(&mut out.batch);
                    if self.is_over(READ, &error, &mut errors) {
                        return;
                    }
                }
            }
        }
    }

    /// Seals what was read, and sends it if it is long; gives how many packets it was.
    fn forward(&self, out: &mut Outgoing, length: usize) -> usize {
        let packets = self.take(&mut out.frame[..length], &mut out.batch);
        if packets.min(out.batch.len()) >= LONG {
            self.flush(&mut out.batch);
        }
        packets
    }

    /// Seals the packets of a frame into the batch, sending it as often as it is full; gives how many they were.
    fn take(&self, frame: &mut [u8], batch: &mut Batch) -> usize {
        let table = self.shared.table.load();
        let peer = match destination(&table, frame) {
            Ok(peer) => peer,
            Err(reason) => {
                self.count(reason);
                return 0;
            }
        };
        if let Some(sending) = peer.sending.as_ref().filter(|_| frame.len() < SYN_LENGTH)
            && let Some((header, packet)) = frame.split_first_chunk_mut()
        {
            clamp_mss(packet, sending.mtu, VnetHeader::decode(header).needs_checksum);
        }
        let cut = match cut(frame) {
            Ok(cut) => cut,
            Err(reason) => {
                self.count(reason);
                return 0;
            }
        };
        let Some(sending) = &peer.sending else {
            self.hand_over(peer.id, &cut);
            return 0;
        };
        if cut.length(0) > usize::from(sending.mtu) {
            self.refuse(&frame[VNET_HEADER..], sending.mtu);
            return 0;
        }
        let to = sending.endpoints[usize::from(self.queue)];
        let mut bytes = 0;
        for index in 0..cut.len() {
            let length = cut.length(index);
            let whole = OVERHEAD + length;
            if !batch.takes(to, whole) {
                self.flush(batch);
            }
            let datagram = batch.room(whole);
            let meta = cut.write(index, &mut datagram[HEADER + META..HEADER + META + length]);
            datagram[HEADER..HEADER + META].copy_from_slice(&meta.encode());
            match sending.session.seal_data(self.queue, datagram) {
                Ok(()) => batch.add(to, whole),
                Err(_) => self.count(DropReason::Exhausted),
            }
            bytes += length as u64;
        }
        peer.traffic.add_sent(cut.len() as u64, bytes);
        if sending.session.take_attention() {
            self.tell(Input::Attention(peer.id), DropReason::ControlFull);
        }
        cut.len()
    }

    /// Gives the packets to the control thread, which keeps a few of them until there is a session.
    fn hand_over(&self, peer: NodeId, cut: &Cut<'_>) {
        for index in 0..cut.len() {
            let mut plaintext = vec![0; META + cut.length(index)];
            let meta = cut.write(index, &mut plaintext[META..]);
            plaintext[..META].copy_from_slice(&meta.encode());
            self.tell(Input::Packet { peer, plaintext }, DropReason::NoSession);
        }
    }

    /// Tells the sender of a packet what the path takes.
    fn refuse(&self, packet: &[u8], mtu: u16) {
        self.count(DropReason::TooBig);
        if let Some(answer) = too_big(packet, mtu) {
            let header = VnetHeader::PLAIN.encode();
            let frame = [IoSlice::new(&header), IoSlice::new(&answer)];
            if self.device.write(&frame).is_err() {
                self.count(DropReason::DeviceRefused);
            }
        }
    }

    fn flush(&self, batch: &mut Batch) {
        let to = batch.to();
        let send = |train: &[u8], segment, to| match to {
            Endpoint::Udp(to) => self.socket.send(train, segment, to),
            Endpoint::Stream(peer) => {
                let now = Instant::now();
                train.chunks(segment).for_each(|datagram| self.shared.streams.push(peer, datagram, now));
                Ok(())
            }
        };
        if let Err((error, lost)) = batch.flush(send) {
            let reason = match error.raw_os_error() {
                Some(libc::EMSGSIZE) => {
                    self.tell_too_big(to);
                    DropReason::TooBig
                }
                Some(_) | None => DropReason::SocketRefused,
            };
            self.shared.counters.add_many(reason, lost);
        }
    }

    /// The control thread finds out what the way to this address takes.
    fn tell_too_big(&self, to: Option<Endpoint>) {
        let table = self.shared.table.load();
        let sends_there = |sending: &Sending| Some(sending.endpoints[usize::from(self.queue)]) == to;
        for peer in table.peers().iter().filter(|peer| peer.sending.as_ref().is_some_and(sends_there)) {
            self.tell(Input::TooBig(peer.id), DropReason::ControlFull);
        }
    }

    /// Socket to interface until stopped, and the other direction while there is little to do; without `duty`, never.
    pub(super) fn receive(&self, duty: Option<&Duty>) {
        let mut buffer = vec![0; 1 << 16];
        let mut out = Outgoing::new();
        let mut load = Load::new(Instant::now());
        let mut errors = 0;
        if let Some(duty) = duty {
            duty.set(self.device.descriptor().is_none());
        }
        while !self.shared.stop.load(Ordering::Relaxed) {
            let device = duty.filter(|duty| !duty.is_apart()).and_then(|_| self.device.descriptor());
            let done = match device {
                Some(device) => self.serve(device, &mut buffer, &mut out),
                None => match self.socket.receive(&mut buffer) {
                    Ok(received) => Ok(self.deliver_received(&mut buffer, received)),
                    Err(error) => Err((RECEIVE, error)),
                },
            };
            match done {
                Ok(packets) => {
                    errors = 0;
                    if let Some(duty) = duty {
                        let much = load.handle(packets as u64, || duty.take_transmitted(), Instant::now());
                        duty.set(much || self.device.descriptor().is_none());
                    }
                }
                Err((action, error)) => {
                    if self.is_over(action, &error, &mut errors) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for either direction, and serves both; gives how many packets it was.
    fn serve(
        &self,
        device: BorrowedFd<'_>,
        buffer: &mut [u8],
        out: &mut Outgoing,
    ) -> Result<usize, (&'static str, io::Error)> {
        let mut ready = [self.socket.descriptor(), device].map(|side| PollFd::new(side, PollFlags::POLLIN));
        poll(&mut ready, PollTimeout::NONE).map_err(|error| (RECEIVE, error.into()))?;
        let mut packets = 0;
        if ready[0].any().unwrap_or(true)
            && let Some(received) = self.socket.receive_ready(buffer).map_err(|error| (RECEIVE, error))?
        {
            packets += self.deliver_received(buffer, received);
        }
        // What was delivered may have been answered.
        while packets < BULK as usize {
            match self.device.read_ready(&mut out.frame) {
                Ok(Some(length)) => packets += self.forward(out, length).max(1),
                Ok(None) => break,
                Err(error) => {
                    self.flush(&mut out.batch);
                    return Err((READ, error));
                }
            }
        }
        self.flush(&mut out.batch);
        Ok(packets)
    }

    fn deliver_received(&self, buffer: &mut [u8], received: Received) -> usize {
        self.deliver(&mut buffer[..received.length], received.segment, received.from.into());
        received.length.div_ceil(received.segment)
    }

    /// Opens the datagrams of one receive and writes their packets, joined where they were one before.
    pub(super) fn deliver(&self, datagrams: &mut [u8], segment: usize, from: Endpoint) {
        let table = self.shared.table.load();
        let mut opener = Opener::new(&table, from);
        let mut joiner = Joiner::new(self.device.offloads());
        let mut write = |frame: Frame<'_>| {
            if self.device.write(frame).is_err() {
                self.count(DropReason::DeviceRefused);
            }
        };
        for datagram in datagrams.chunks_mut(segment) {
            let inbound = match opener.open(datagram) {
                Ok(inbound) => inbound,
                Err(reason) => {
                    self.count(reason);
                    continue;
                }
            };
            self.report(inbound.session, from, inbound.first, inbound.moved);
            match inbound.content {
                Content::Packet(meta, packet) => {
                    let Header { session, queue, counter, .. } = inbound.header;
                    let lane = u64::from(session.get()) << 4 | u64::from(queue);
                    inbound.peer.traffic.add_received(1, packet.len() as u64);
                    if let Some(sending) = inbound.peer.sending.as_ref().filter(|_| packet.len() < SYN_LENGTH)
                    {
                        clamp_mss(packet, sending.mtu, meta.partial_checksum);
                    }
                    if let Err(reason) = joiner.push(meta, packet, lane, counter, &mut write) {
                        self.count(reason);
                    }
                }
                Content::Control(plaintext) => {
                    if inbound.session.take_control() {
                        let session = Arc::clone(inbound.session);
                        let plaintext = plaintext.to_vec();
                        self.tell(Input::Control { session, from, plaintext }, DropReason::ControlFull);
                    } else {
                        self.count(DropReason::ControlFull);
                    }
                }
                Content::Refused(reason) => self.count(reason),
            }
        }
        joiner.flush(&mut write);
    }

    fn report(&self, session: &Arc<Session>, from: Endpoint, first: bool, moved: bool) {
        if first {
            self.tell(Input::Confirmed { session: Arc::clone(session), from }, DropReason::ControlFull);
        }
        if moved {
            self.tell(Input::Moved { session: Arc::clone(session), from }, DropReason::ControlFull);
        }
    }

    /// Never waits for the control thread.
    fn tell(&self, input: Input, otherwise: DropReason) {
        if let Err(refused) = self.control.try_send(input) {
            self.count(otherwise);
            let (std::sync::mpsc::TrySendError::Full(input)
            | std::sync::mpsc::TrySendError::Disconnected(input)) = refused;
            #[expect(clippy::wildcard_enum_match_arm, reason = "no other word holds a place")]
            match input {
                Input::Moved { session, .. } => session.settle(),
                Input::Control { session, .. } => session.control_done(),
                _ => {}
            }
        }
    }

    fn count(&self, reason: DropReason) {
        self.shared.counters.add(reason);
    }

    /// Whether `error` is the end of this thread; tells the daemon if it is not meant to be.
    fn is_over(&self, action: &str, error: &io::Error, errors: &mut u32) -> bool {
        if self.shared.stop.load(Ordering::Relaxed) {
            return true;
        }
        if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) {
            return false;
        }
        *errors += 1;
        // EBADFD: the interface was removed. EIO: it is down, which whoever did it may undo.
        let gone = error.raw_os_error() == Some(libc::EBADFD) || *errors > ERRORS_IN_A_ROW;
        if gone {
            self.tell(Input::Failed(format!("cannot {action}: {error}")), DropReason::ControlFull);
        }
        gone
    }
}

/// The peer a frame is for.
fn destination<'t>(table: &'t Table, frame: &[u8]) -> Result<&'t TablePeer, DropReason> {
    table.destination(frame.get(VNET_HEADER..).ok_or(DropReason::BadFrame)?)
}

/// The packets of a frame.
fn cut(frame: &[u8]) -> Result<Cut<'_>, DropReason> {
    let (header, packet) = frame.split_first_chunk().ok_or(DropReason::BadFrame)?;
    Cut::new(&VnetHeader::decode(header), packet)
}
