//! The keys of a session. A sealing key owns its counters and cannot be cloned, so no nonce is ever used twice.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{
    DropReason,
    window::{Arrival, Window},
    wire::{CONTROL_QUEUE, HEADER, Header, Kind, MAX_QUEUES, SessionId, TAG},
};

/// The ciphers of the data plane; both take a key of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// Where both ends have AES instructions.
    Aes256Gcm,
    /// Everywhere else.
    ChaCha20Poly1305,
}

impl Aead {
    /// The choice of two ends that tell each other whether they have AES instructions.
    pub fn choose(ours: bool, theirs: bool) -> Self {
        if ours && theirs { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    fn key(self, secret: &[u8; 32]) -> LessSafeKey {
        let algorithm = match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        LessSafeKey::new(UnboundKey::new(algorithm, secret).expect("both ciphers take 32 bytes"))
    }
}

/// The key has sealed as many datagrams as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

/// A counter alone on its cache line: each queue's thread counts without disturbing the others.
#[repr(align(64))]
#[derive(Default)]
struct Counter(AtomicU64);

/// Seals what we send: the key and the counter of every queue.
pub(super) struct SealingKey {
    key: LessSafeKey,
    counters: [Counter; CONTROL_QUEUE as usize + 1],
    limit: u64,
}

impl SealingKey {
    /// A key that seals at most `limit` datagrams per queue.
    pub(super) fn new(aead: Aead, secret: &[u8; 32], limit: u64) -> Self {
        Self { key: aead.key(secret), counters: Default::default(), limit }
    }

    /// Seals a datagram in place: `datagram` is `HEADER` bytes of room, the plaintext, `TAG` bytes of room.
    /// Gives the counter used.
    ///
    /// # Errors
    /// [`Exhausted`] at the key's limit.
    pub(super) fn seal(
        &self,
        kind: Kind,
        session: SessionId,
        queue: u8,
        datagram: &mut [u8],
    ) -> Result<u64, Exhausted> {
        let counter = self.counters[usize::from(queue & 0xf)].0.fetch_add(1, Ordering::Relaxed);
        if counter >= self.limit {
            return Err(Exhausted);
        }
        let header = Header { kind, session, queue, counter }.encode();
        let (head, rest) = datagram.split_at_mut(HEADER);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG);
        head.copy_from_slice(&header);
        let nonce = Nonce::assume_unique_for_key(Header::nonce(queue, counter));
        let sealed =
            self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body).map_err(|_| Exhausted)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(counter)
    }
}

/// Opens what the peer sends: the key and the replay window of every queue the peer has.
pub(super) struct OpeningKey {
    key: LessSafeKey,
    /// The peer's data queues, then its control queue. The locks are free but for a replay to another port: one
    /// thread receives what one queue sends.
    windows: Box<[Mutex<Window>]>,
}

impl OpeningKey {
    /// A key for a peer that sends on `queues` queues.
    pub(super) fn new(aead: Aead, secret: &[u8; 32], queues: usize) -> Self {
        let windows = (0..=queues.min(MAX_QUEUES)).map(|_| Mutex::default()).collect();
        Self { key: aead.key(secret), windows }
    }

    /// Opens a datagram in place; gives the plaintext and whether it is the newest of its queue.
    ///
    /// # Errors
    /// Replays and unknown queues are refused before any crypto, everything else by its tag.
    pub(super) fn open<'a>(
        &self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<(&'a mut [u8], Arrival), DropReason> {
        let (last, data) = self.windows.split_last().expect("there is a window for the control queue");
        let window =
            if header.queue == CONTROL_QUEUE { Some(last) } else { data.get(usize::from(header.queue)) };
        let window = window.ok_or(DropReason::Malformed)?;
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        if !window.is_fresh(header.counter) {
            return Err(DropReason::Replayed);
        }
        if datagram.len() < HEADER + TAG {
            return Err(DropReason::Short);
        }
        let (head, body) = datagram.split_at_mut(HEADER);
        let nonce = Nonce::assume_unique_for_key(Header::nonce(header.queue, header.counter));
        let plaintext =
            self.key.open_in_place(nonce, Aad::from(head), body).map_err(|_| DropReason::NotAuthentic)?;
        Ok((plaintext, window.accept(header.counter).ok_or(DropReason::Replayed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(aead: Aead, limit: u64) -> (SealingKey, OpeningKey) {
        (SealingKey::new(aead, &[7; 32], limit), OpeningKey::new(aead, &[7; 32], 2))
    }

    fn datagram(text: &[u8]) -> Vec<u8> {
        [&[0; HEADER], text, &[0; TAG]].concat()
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
            let (sealing, opening) = pair(aead, 10);
            let mut sealed = datagram(b"hello");
            let session = SessionId::from_bits(77);
            assert_eq!(sealing.seal(Kind::Data, session, 1, &mut sealed), Ok(0));
            let header = Header::decode(&sealed).expect("well-formed");
            assert_eq!((header.session, header.queue, header.counter), (session, 1, 0));
            let mut copy = sealed.clone();
            assert_eq!(
                opening.open(&header, &mut sealed).map(|(text, _)| text.to_vec()),
                Ok(b"hello".to_vec())
            );
            assert_eq!(opening.open(&header, &mut copy), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn any_changed_bit_is_noticed_and_does_not_spend_the_counter() {
        let (sealing, opening) = pair(Aead::Aes256Gcm, 10);
        let mut sealed = datagram(b"hello");
        sealing.seal(Kind::Data, SessionId::from_bits(1), 0, &mut sealed).expect("below the limit");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Some(header) = Header::decode(&changed) {
                assert!(opening.open(&header, &mut changed).is_err(), "bit {bit}");
            }
        }
        let header = Header::decode(&sealed).expect("well-formed");
        assert!(opening.open(&header, &mut sealed).is_ok());
    }

    #[test]
    fn a_key_stops_at_its_limit() {
        let (sealing, _) = pair(Aead::Aes256Gcm, 2);
        let seal = |queue| sealing.seal(Kind::Data, SessionId::from_bits(1), queue, &mut datagram(b"x"));
        assert_eq!((seal(0), seal(0), seal(0), seal(0)), (Ok(0), Ok(1), Err(Exhausted), Err(Exhausted)));
        assert_eq!(seal(CONTROL_QUEUE), Ok(0));
    }

    #[test]
    fn a_queue_that_the_peer_does_not_have_is_refused() {
        let (sealing, opening) = pair(Aead::Aes256Gcm, 10);
        let mut sealed = datagram(b"x");
        sealing.seal(Kind::Data, SessionId::from_bits(1), 2, &mut sealed).expect("below the limit");
        let header = Header::decode(&sealed).expect("well-formed");
        assert_eq!(opening.open(&header, &mut sealed), Err(DropReason::Malformed));
    }
}
