//! The handshake: `Noise_NNpsk0` with the network token's key, carried by a stream that has proven both node ids.
//!
//! ```text
//! Initiator::new ----- psk, e, {offer} ----> respond -> Session (used for sending once the initiator was heard)
//! finish -> Session <-- e, ee, {offer} -----
//! ```
//!
//! The prologue binds version and both ids; the offers (session ids, AES, queues) travel sealed inside the messages
//! and are part of the transcript. The data keys come from the split keys *and* the transcript's hash, so two ends
//! that do not agree on every byte have no common key.

use std::net::IpAddr;

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use snow::{Builder, HandshakeState, params::NoiseParams};
use zeroize::Zeroizing;

use super::{
    key::Aead,
    noise::Resolver,
    session::Session,
    wire::{MAX_QUEUES, SessionId},
};
use crate::identity::NodeId;

/// The version of wire format and handshake; part of the prologue.
pub(super) const VERSION: u8 = 1;
/// More candidates than this in one offer are ignored.
const MAX_ADDRESSES: usize = 16;
/// Longer messages than this are refused unread.
pub(super) const MAX_MESSAGE: usize = 1200;

/// What both ends of a handshake know beforehand.
#[derive(Clone)]
pub struct Parameters {
    /// Our id.
    pub me: NodeId,
    /// The id that the stream has proven for the other end.
    pub peer: NodeId,
    /// The network token's key for the data plane.
    pub psk: Zeroizing<[u8; 32]>,
}

/// What one end tells the other. Named fields; unknown ones are ignored, so later versions may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What the teller calls the session: the other end writes it into its datagrams.
    session: u32,
    /// Whether the teller has AES instructions.
    aes: bool,
    /// The teller's UDP ports, one per queue.
    ports: Vec<u16>,
    /// Addresses the teller may be reached at.
    addresses: Vec<IpAddr>,
}

impl Offer {
    /// An offer for the session that the teller calls `session`. Of the addresses the first 16 are told.
    pub fn new(session: SessionId, aes: bool, ports: Vec<u16>, mut addresses: Vec<IpAddr>) -> Self {
        addresses.truncate(MAX_ADDRESSES);
        Self { session: session.get(), aes, ports, addresses }
    }

    /// The UDP ports of the teller's queues: one to four.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Addresses the teller may be reached at.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn encode(&self) -> Vec<u8> {
        minicbor_serde::to_vec(self).expect("an offer is plain data")
    }

    fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let mut offer: Self = minicbor_serde::from_slice(bytes).map_err(|_| HandshakeError::BadOffer)?;
        offer.addresses.truncate(MAX_ADDRESSES);
        let ports = 1..=MAX_QUEUES;
        if ports.contains(&offer.ports.len()) && offer.session <= 0xf_ffff && !offer.ports.contains(&0) {
            Ok(offer)
        } else {
            Err(HandshakeError::BadOffer)
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another token, another version, other ids, or bytes changed on the way.
    #[error("the peer's handshake message does not authenticate: another network token, or another version")]
    NotAuthentic,
    /// Authentic, and nonsense.
    #[error("the peer's handshake message makes no sense")]
    BadOffer,
}

/// Our half of a handshake that we began.
pub struct Initiator {
    state: HandshakeState,
    ours: Offer,
    peer: NodeId,
}

impl Initiator {
    /// Begins a handshake and gives the message for the peer. `seed` is 32 fresh secret bytes, never used twice.
    pub fn new(parameters: &Parameters, ours: Offer, seed: [u8; 32]) -> (Self, Vec<u8>) {
        let prologue = prologue(&parameters.me, &parameters.peer);
        let mut state = builder(parameters, &prologue, seed)
            .build_initiator()
            .expect("NNpsk0 needs the pre-shared key and nothing else");
        let message = write(&mut state, &ours);
        (Self { state, ours, peer: parameters.peer }, message)
    }

    /// Takes the peer's answer; gives the session, which may be used at once, and what the peer told.
    ///
    /// # Errors
    /// [`HandshakeError`] if the answer is not the peer's answer to this very message.
    pub fn finish(mut self, answer: &[u8]) -> Result<(Session, Offer), HandshakeError> {
        let theirs = read(&mut self.state, answer)?;
        let session = agree(self.state, &self.ours, &theirs, self.peer, true);
        Ok((session, theirs))
    }
}

/// Answers a handshake that the peer began; gives the session, what the peer told, and the answer.
///
/// # Errors
/// [`HandshakeError`] if the message is not from a holder of the token who talks to us.
pub fn respond(
    parameters: &Parameters,
    ours: Offer,
    seed: [u8; 32],
    message: &[u8],
) -> Result<(Session, Offer, Vec<u8>), HandshakeError> {
    let prologue = prologue(&parameters.peer, &parameters.me);
    let mut state = builder(parameters, &prologue, seed)
        .build_responder()
        .expect("NNpsk0 needs the pre-shared key and nothing else");
    let theirs = read(&mut state, message)?;
    let answer = write(&mut state, &ours);
    let session = agree(state, &ours, &theirs, parameters.peer, false);
    Ok((session, theirs, answer))
}

fn prologue(initiator: &NodeId, responder: &NodeId) -> Vec<u8> {
    [b"c3os data ", [VERSION].as_slice(), initiator.as_bytes(), responder.as_bytes()].concat()
}

fn builder<'a>(parameters: &'a Parameters, prologue: &'a [u8], seed: [u8; 32]) -> Builder<'a> {
    let pattern: NoiseParams =
        "Noise_NNpsk0_25519_ChaChaPoly_SHA256".parse().expect("the name is from the Noise specification");
    Builder::with_resolver(pattern, Box::new(Resolver(Zeroizing::new(seed))))
        .prologue(prologue)
        .psk(0, parameters.psk.as_ref())
}

fn write(state: &mut HandshakeState, offer: &Offer) -> Vec<u8> {
    let payload = offer.encode();
    let mut message = vec![0; payload.len() + 48];
    let length =
        state.write_message(&payload, &mut message).expect("it is our turn and the buffer is large enough");
    message.truncate(length);
    message
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Offer, HandshakeError> {
    if message.len() > MAX_MESSAGE {
        return Err(HandshakeError::BadOffer);
    }
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload).map_err(|_| HandshakeError::NotAuthentic)?;
    Offer::decode(&payload[..length])
}

fn agree(mut state: HandshakeState, ours: &Offer, theirs: &Offer, peer: NodeId, initiator: bool) -> Session {
    let aead = Aead::choose(ours.aes, theirs.aes);
    let (to_responder, to_initiator) = state.dangerously_get_raw_split();
    let (to_responder, to_initiator) = (Zeroizing::new(to_responder), Zeroizing::new(to_initiator));
    let (sending, receiving) =
        if initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
    let derive = |secret: &[u8; 32]| {
        let mut key = Zeroizing::new([0; 32]);
        let label: &[u8] = match aead {
            Aead::Aes256Gcm => b"c3os data AES-256-GCM",
            Aead::ChaCha20Poly1305 => b"c3os data ChaCha20-Poly1305",
        };
        Hkdf::<Sha256>::new(Some(state.get_handshake_hash()), secret)
            .expand(label, key.as_mut())
            .expect("32 bytes are within HKDF's limit");
        key
    };
    Session::new(
        peer,
        SessionId::from_bits(ours.session),
        SessionId::from_bits(theirs.session),
        aead,
        (&derive(&sending), &derive(&receiving)),
        theirs.ports.len(),
        initiator,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::Identity,
        tunnel::wire::{Header, Kind},
    };

    fn parameters(me: u8, peer: u8, psk: u8) -> Parameters {
        let id = |seed| Identity::from_seed(&[seed; 32]).id();
        Parameters { me: id(me), peer: id(peer), psk: Zeroizing::new([psk; 32]) }
    }

    fn offer(session: u32, aes: bool) -> Offer {
        Offer::new(
            SessionId::from_bits(session),
            aes,
            vec![51900, 51901],
            vec!["192.168.0.7".parse().unwrap()],
        )
    }

    fn shake(
        ours: (Parameters, bool),
        theirs: (Parameters, bool),
    ) -> Result<(Session, Session), HandshakeError> {
        let (initiator, message) = Initiator::new(&ours.0, offer(1, ours.1), [1; 32]);
        let (responder, told, answer) = respond(&theirs.0, offer(2, theirs.1), [2; 32], &message)?;
        assert_eq!(told, offer(1, ours.1));
        let (initiator, told) = initiator.finish(&answer)?;
        assert_eq!(told, offer(2, theirs.1));
        Ok((initiator, responder))
    }

    #[test]
    fn a_machine_with_hundreds_of_addresses_tells_some_of_them() {
        let addresses = (0..200).map(|number| [0xfd00, 0, 0, 0, 0, 0, 0, number].into()).collect();
        let many = Offer::new(SessionId::from_bits(1), true, vec![51900; MAX_QUEUES], addresses);
        let (_, message) = Initiator::new(&parameters(1, 2, 9), many, [1; 32]);
        let (_, told, _) =
            respond(&parameters(2, 1, 9), offer(2, true), [2; 32], &message).expect("short enough");
        assert_eq!(told.addresses().len(), MAX_ADDRESSES);
    }

    #[test]
    fn both_ends_open_what_the_other_seals_and_nobody_opens_their_own() {
        for (aes, expected) in [(true, Aead::Aes256Gcm), (false, Aead::ChaCha20Poly1305)] {
            let (a, b) = shake((parameters(1, 2, 9), true), (parameters(2, 1, 9), aes)).expect("same token");
            assert_eq!((a.aead(), b.aead()), (expected, expected));
            for (from, to) in [(&a, &b), (&b, &a)] {
                let mut sealed = from.seal(Kind::Control, 0, b"hello").expect("below the limit");
                let mut reflected = sealed.clone();
                let header = Header::decode(&sealed).expect("well-formed");
                assert_eq!(to.open(&header, &mut sealed).expect("sealed by the peer").plaintext, b"hello");
                assert!(from.open(&header, &mut reflected).is_err(), "reflected");
            }
        }
    }

    #[test]
    fn another_token_or_another_id_gives_no_session() {
        let wrong = [
            (parameters(1, 2, 9), parameters(2, 1, 8)),
            (parameters(1, 2, 9), parameters(2, 3, 9)),
            (parameters(1, 3, 9), parameters(2, 1, 9)),
        ];
        for (ours, theirs) in wrong {
            assert_eq!(shake((ours, true), (theirs, true)).err(), Some(HandshakeError::NotAuthentic));
        }
    }

    #[test]
    fn a_message_with_any_changed_or_missing_byte_is_refused() {
        let (a, b) = (parameters(1, 2, 9), parameters(2, 1, 9));
        let (_, message) = Initiator::new(&a, offer(1, true), [1; 32]);
        for i in 0..message.len() {
            let mut changed = message.clone();
            changed[i] ^= 1;
            assert!(respond(&b, offer(2, true), [2; 32], &changed).is_err());
            assert!(respond(&b, offer(2, true), [2; 32], &message[..i]).is_err());
        }
        let (_, _, answer) = respond(&b, offer(2, true), [2; 32], &message).expect("unchanged");
        for i in 0..answer.len() {
            let mut changed = answer.clone();
            changed[i] ^= 1;
            let (initiator, _) = Initiator::new(&a, offer(1, true), [1; 32]);
            assert!(initiator.finish(&changed).is_err());
        }
    }

    #[test]
    fn an_authentic_offer_that_makes_no_sense_is_refused() {
        let (a, b) = (parameters(1, 2, 9), parameters(2, 1, 9));
        for ports in [vec![], vec![0], vec![1; 5]] {
            let bad = Offer::new(SessionId::from_bits(1), true, ports, vec![]);
            let (_, message) = Initiator::new(&a, bad, [1; 32]);
            assert_eq!(respond(&b, offer(2, true), [2; 32], &message).err(), Some(HandshakeError::BadOffer));
        }
    }
}
