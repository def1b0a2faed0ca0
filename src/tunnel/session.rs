//! A session: the keys of both directions with one peer, and the few flags by which the fast threads and the control
//! thread talk about it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{
    DropReason,
    key::{Aead, Exhausted, OpeningKey, SealingKey},
    window::Arrival,
    wire::{HEADER, Header, Kind, SessionId, TAG},
};
use crate::identity::NodeId;

/// After so many datagrams of one queue a new handshake is wanted (far below AES-GCM's bound for random access).
pub(super) const REKEY_AFTER_DATAGRAMS: u64 = 1 << 26;
/// No queue ever seals more than this with one key.
pub(super) const DATAGRAM_LIMIT: u64 = 1 << 32;

/// Control datagrams of one session that may wait at once.
const MAX_CONTROLS: u32 = 32;

/// Keys, counters and windows shared with one peer. It has no `Clone`: threads share it by reference.
pub struct Session {
    peer: NodeId,
    local: SessionId,
    remote: SessionId,
    aead: Aead,
    initiator: bool,
    sealing: SealingKey,
    opening: OpeningKey,
    /// The peer has used it, so the peer has it.
    confirmed: AtomicBool,
    /// The control thread wants to hear of the next packet that is sent.
    attention: AtomicBool,
    /// The control thread was told of a new source address and has not decided yet.
    moved: AtomicBool,
    /// Control datagrams on their way to the control thread.
    controls: AtomicU32,
    sent: AtomicU64,
    received: AtomicU64,
}

/// A datagram that was authentic and new.
pub struct Opened<'a> {
    /// What was sealed.
    pub plaintext: &'a mut [u8],
    /// Whether it is the newest of its queue.
    pub arrival: Arrival,
    /// Whether it is the first of its session.
    pub first: bool,
}

impl Session {
    pub(super) fn new(
        peer: NodeId,
        local: SessionId,
        remote: SessionId,
        aead: Aead,
        (sealing, opening): (&[u8; 32], &[u8; 32]),
        peer_queues: usize,
        initiator: bool,
    ) -> Self {
        Self {
            peer,
            local,
            remote,
            aead,
            initiator,
            sealing: SealingKey::new(aead, sealing, DATAGRAM_LIMIT),
            opening: OpeningKey::new(aead, opening, peer_queues),
            confirmed: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            controls: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// The other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The id in datagrams to us.
    pub fn local(&self) -> SessionId {
        self.local
    }

    /// The cipher.
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// Whether we began the handshake.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Data datagrams sealed so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Authentic datagrams of any kind received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks the sending threads to tell the control thread of the next packet.
    pub fn ask_for_attention(&self) {
        self.attention.store(true, Ordering::Relaxed);
    }

    /// Whether the control thread asked to hear of this packet; true once per asking.
    pub fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) && self.attention.swap(false, Ordering::Relaxed)
    }

    /// Whether the control thread is to be told of a new source address; true until [`Session::settle`].
    pub fn take_move(&self) -> bool {
        !self.moved.swap(true, Ordering::Relaxed)
    }

    /// The control thread has decided on the new source address.
    pub fn settle(&self) {
        self.moved.store(false, Ordering::Relaxed);
    }

    /// Whether one more control datagram may wait for the control thread: one peer cannot fill its channel. Each that was
    /// let in is to be given back by [`Session::control_done`].
    pub fn take_control(&self) -> bool {
        let few = self.controls.fetch_add(1, Ordering::Relaxed) < MAX_CONTROLS;
        if !few {
            self.control_done();
        }
        few
    }

    /// A control datagram was dealt with, or dropped.
    pub fn control_done(&self) {
        self.controls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Seals a data datagram in place; `datagram` has `HEADER` bytes of room before and `TAG` bytes after the
    /// plaintext (meta and packet).
    ///
    /// # Errors
    /// [`Exhausted`] when the key has reached its limit.
    pub fn seal_data(&self, queue: u8, datagram: &mut [u8]) -> Result<(), Exhausted> {
        let counter = self.sealing.seal(Kind::Data, self.remote, queue, datagram)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        if counter == REKEY_AFTER_DATAGRAMS {
            self.ask_for_attention();
        }
        Ok(())
    }

    /// Seals `plaintext` into a datagram of its own; for what is rare.
    ///
    /// # Errors
    /// [`Exhausted`] when the key has reached its limit.
    pub fn seal(&self, kind: Kind, queue: u8, plaintext: &[u8]) -> Result<Vec<u8>, Exhausted> {
        let mut datagram = vec![0; HEADER + plaintext.len() + TAG];
        datagram[HEADER..HEADER + plaintext.len()].copy_from_slice(plaintext);
        self.sealing.seal(kind, self.remote, queue, &mut datagram)?;
        if kind == Kind::Data {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(datagram)
    }

    /// Opens a datagram, whose first bytes are `header`, in place.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn open<'a>(&self, header: &Header, datagram: &'a mut [u8]) -> Result<Opened<'a>, DropReason> {
        let (plaintext, arrival) = self.opening.open(header, datagram)?;
        self.received.fetch_add(1, Ordering::Relaxed);
        let first = !self.confirmed.load(Ordering::Relaxed) && !self.confirmed.swap(true, Ordering::Relaxed);
        Ok(Opened { plaintext, arrival, first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_gets_a_bounded_share_of_the_control_thread() {
        let id = NodeId::from_bytes([1; 32]);
        let (a, b) = (SessionId::from_bits(1), SessionId::from_bits(2));
        let session = Session::new(id, a, b, Aead::ChaCha20Poly1305, (&[1; 32], &[2; 32]), 1, true);
        assert_eq!((0..100).filter(|_| session.take_control()).count(), MAX_CONTROLS as usize);
        session.control_done();
        assert!(session.take_control());
        assert!(!session.take_control());
    }

    #[test]
    fn attention_is_given_once_per_asking() {
        let id = NodeId::from_bytes([1; 32]);
        let (a, b) = (SessionId::from_bits(1), SessionId::from_bits(2));
        let session = Session::new(id, a, b, Aead::ChaCha20Poly1305, (&[1; 32], &[2; 32]), 1, true);
        assert!(!session.take_attention());
        session.ask_for_attention();
        assert!(session.take_attention());
        assert!(!session.take_attention());
    }
}
