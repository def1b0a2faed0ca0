//! The fast threads: packets from the interface to the socket and back. They read the table, decide nothing, and
//! allocate nothing while there is a session.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
};

use super::{Input, Shared};
use crate::{
    tun::{Device, MAX_FRAME, VNET_HEADER},
    tunnel::{Content, DropReason, HEADER, META, Meta, Session, TAG, Table},
    udp::Socket,
};

/// The kernel answers so many errors in a row only when the device or socket is gone.
const ERRORS_IN_A_ROW: u32 = 100;

/// One queue.
pub(super) struct Worker<D> {
    pub(super) queue: u8,
    pub(super) device: Arc<D>,
    pub(super) socket: Arc<Socket>,
    pub(super) shared: Arc<Shared>,
    pub(super) control: SyncSender<Input>,
}

impl<D> Clone for Worker<D> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue,
            device: Arc::clone(&self.device),
            socket: Arc::clone(&self.socket),
            shared: Arc::clone(&self.shared),
            control: self.control.clone(),
        }
    }
}

impl<D: Device> Worker<D> {
    /// Interface to socket, until stopped.
    pub(super) fn transmit(&self) {
        let mut frame = vec![0; MAX_FRAME];
        let mut datagram = vec![0; HEADER + META + MAX_FRAME + TAG];
        let mut errors = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.device.read(&mut frame) {
                Ok(length) if length > VNET_HEADER => {
                    errors = 0;
                    self.send(&frame[VNET_HEADER..length], &mut datagram);
                }
                Ok(_) => self.count(DropReason::NotIp),
                Err(error) => {
                    if self.is_over("read from the interface", &error, &mut errors) {
                        return;
                    }
                }
            }
        }
    }

    fn send(&self, packet: &[u8], datagram: &mut [u8]) {
        let table = self.shared.table.load();
        let peer = match table.destination(packet) {
            Ok(peer) => peer,
            Err(reason) => return self.count(reason),
        };
        let meta = Meta::default().encode();
        let Some(sending) = &peer.sending else {
            let plaintext = [&meta, packet].concat();
            return self.tell(Input::Packet { peer: peer.id, plaintext }, DropReason::NoSession);
        };
        let end = HEADER + META + packet.len();
        datagram[HEADER..HEADER + META].copy_from_slice(&meta);
        datagram[HEADER + META..end].copy_from_slice(packet);
        let datagram = &mut datagram[..end + TAG];
        if sending.session.seal_data(self.queue, datagram).is_err() {
            return self.count(DropReason::Exhausted);
        }
        let to = sending.endpoints[usize::from(self.queue)];
        match self.socket.send(datagram, datagram.len(), to) {
            Ok(()) => peer.traffic.add_sent(1, packet.len() as u64),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.count(DropReason::TooBig),
            Err(_) => self.count(DropReason::SocketRefused),
        }
        if sending.session.take_attention() {
            self.tell(Input::Attention(peer.id), DropReason::ControlFull);
        }
    }

    /// Socket to interface, until stopped.
    pub(super) fn receive(&self) {
        let mut buffer = vec![0; 1 << 16];
        let mut errors = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.socket.receive(&mut buffer) {
                Ok(received) => {
                    errors = 0;
                    let table = self.shared.table.load();
                    for datagram in buffer[..received.length].chunks_mut(received.segment) {
                        self.deliver(&table, datagram, received.from);
                    }
                }
                Err(error) => {
                    if self.is_over("receive from the network", &error, &mut errors) {
                        return;
                    }
                }
            }
        }
    }

    fn deliver(&self, table: &Table, datagram: &mut [u8], from: SocketAddr) {
        let inbound = match table.open(datagram, from) {
            Ok(inbound) => inbound,
            Err(reason) => return self.count(reason),
        };
        self.report(inbound.session, from, inbound.first, inbound.moved);
        match inbound.content {
            Content::Packet(_, packet) => {
                let header = [0; VNET_HEADER];
                match self.device.write(&[IoSlice::new(&header), IoSlice::new(packet)]) {
                    Ok(()) => inbound.peer.traffic.add_received(1, packet.len() as u64),
                    Err(_) => self.count(DropReason::DeviceRefused),
                }
            }
            Content::Control(plaintext) => {
                let session = Arc::clone(inbound.session);
                let plaintext = plaintext.to_vec();
                self.tell(Input::Control { session, from, plaintext }, DropReason::ControlFull);
            }
            Content::Refused(reason) => self.count(reason),
        }
    }

    fn report(&self, session: &Arc<Session>, from: SocketAddr, first: bool, moved: bool) {
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
            if let Input::Moved { session, .. } = input {
                session.settle();
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
