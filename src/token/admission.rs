//! The proof that both ends of a connection know the token: three messages, right after libp2p's own handshake.
//!
//! ```text
//! initiator (who dialled)                          responder (who was dialled)
//!                 <------- challenge: nonce (32) -------  Responder::new
//! Initiator::handle_challenge
//!                 -- proof: nonce (32), MAC (32) x keys ->  Responder::handle_proof
//!                 <------------ answer: MAC (32) --------
//! Proved::handle_answer
//! ```
//!
//! Each MAC is HMAC-SHA256 under the token's admission key over: role, version of the protocol, both node ids (as
//! libp2p proved them), both nonces. So it is good for this pair, this direction and this session only: replayed,
//! reflected or carried to a third node, it proves nothing. Every object is used up by its one message.
//!
//! While a token is being replaced, either side may hold several keys; the proof carries one MAC for each of the
//! initiator's, the answer uses the responder's most preferred one that fits, and both learn which.
//!
//! | who | learns |
//! | --- | --- |
//! | a stranger who dials | 32 random bytes, then the stream closes |
//! | a stranger who is dialled | 32 random bytes, MACs that are random bytes to it, and by their number how many keys there are (one, but for a rotation) |
//! | a listener between | nothing: all of it is inside Noise |
//! | a member who knows another token only | the same as a stranger |
//!
//! A MAC of a guessable key (a token of the original's generators) lets the stranger who was dialled check guesses
//! at leisure; that is why such a token asks for `c3os rotate`.

use ring::hmac;
use zeroize::Zeroizing;

use crate::identity::NodeId;

/// The version this code speaks. The mesh names it in the protocol's name; it is also bound into every MAC.
pub const VERSION: u16 = 1;

/// Bytes of the challenge.
pub const CHALLENGE_LENGTH: usize = 32;
/// Bytes of the longest proof.
pub const MAXIMUM_PROOF_LENGTH: usize = 32 + 32 * MAXIMUM_KEYS;
/// Bytes of the answer.
pub const ANSWER_LENGTH: usize = 32;

/// The most keys one side holds at a time.
pub const MAXIMUM_KEYS: usize = 4;

/// The admission keys of a node, most preferred first. Wiped when dropped; has no `Debug`.
#[derive(Clone)]
pub struct AdmissionKeys(Vec<Zeroizing<[u8; 32]>>);

impl AdmissionKeys {
    /// The usual case: the one key of the one token.
    pub fn one(key: &[u8; 32]) -> Self {
        Self(vec![Zeroizing::new(*key)])
    }

    /// Several keys, the most preferred first; those beyond [`MAXIMUM_KEYS`] are left out.
    pub fn several<'a>(keys: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        Self(keys.into_iter().take(MAXIMUM_KEYS).map(|key| Zeroizing::new(*key)).collect())
    }
}

/// What one proof is bound to, equal on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Who dialled, as libp2p proved it.
    pub initiator: NodeId,
    /// Who was dialled, as libp2p proved it.
    pub responder: NodeId,
    /// The protocol's version that both agreed on, [`VERSION`] in this code.
    pub version: u16,
}

/// The other side knows the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Admitted {
    /// Which of our keys it shares: index in order of preference, 0 the current token's.
    pub key: usize,
}

/// Why the other side is not admitted. Nothing of it is told to the other side: the stream just closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// A message of a length that the protocol does not have.
    #[error("the other side does not speak this admission protocol")]
    Malformed,
    /// It does not know any of our keys.
    #[error("the other side has another network token")]
    OtherToken,
}

/// The side that was dialled, its challenge sent, waiting for the proof.
pub struct Responder {
    keys: AdmissionKeys,
    session: Session,
    nonce: [u8; 32],
}

impl Responder {
    /// Opens the exchange; the second value is the challenge to send. `nonce` is 32 fresh random bytes.
    pub fn new(keys: AdmissionKeys, session: Session, nonce: [u8; 32]) -> (Self, Vec<u8>) {
        (Self { keys, session, nonce }, nonce.to_vec())
    }

    /// Takes the proof; the second value is the answer to send.
    ///
    /// # Errors
    /// [`AdmissionError`]; send nothing and close.
    pub fn handle_proof(self, proof: &[u8]) -> Result<(Admitted, Vec<u8>), AdmissionError> {
        let (nonce, macs) = proof.split_first_chunk::<32>().ok_or(AdmissionError::Malformed)?;
        let (macs, rest) = macs.as_chunks::<32>();
        if macs.is_empty() || macs.len() > MAXIMUM_KEYS || !rest.is_empty() {
            return Err(AdmissionError::Malformed);
        }
        let said = transcript(Role::Initiator, &self.session, &self.nonce, nonce);
        let fits = |key: &Zeroizing<[u8; 32]>| {
            // `|`, not `||`: always all comparisons, and each in constant time.
            macs.iter().fold(false, |found, mac| found | verify(key, &said, mac))
        };
        let found = self.keys.0.iter().map(fits).collect::<Vec<_>>();
        let key = found.iter().position(|fits| *fits).ok_or(AdmissionError::OtherToken)?;
        let answer = mac(&self.keys.0[key], &transcript(Role::Responder, &self.session, &self.nonce, nonce));
        Ok((Admitted { key }, answer.to_vec()))
    }
}

/// The side that dialled, waiting for the challenge.
pub struct Initiator {
    keys: AdmissionKeys,
    session: Session,
    nonce: [u8; 32],
}

impl Initiator {
    /// Opens the exchange; nothing is sent yet. `nonce` is 32 fresh random bytes.
    pub fn new(keys: AdmissionKeys, session: Session, nonce: [u8; 32]) -> Self {
        Self { keys, session, nonce }
    }

    /// Takes the challenge; the second value is the proof to send.
    ///
    /// # Errors
    /// [`AdmissionError::Malformed`]; close.
    pub fn handle_challenge(self, challenge: &[u8]) -> Result<(Proved, Vec<u8>), AdmissionError> {
        let challenge = <[u8; 32]>::try_from(challenge).map_err(|_| AdmissionError::Malformed)?;
        let said = transcript(Role::Initiator, &self.session, &challenge, &self.nonce);
        let mut proof = self.nonce.to_vec();
        for key in &self.keys.0 {
            proof.extend_from_slice(&mac(key, &said));
        }
        let expected = transcript(Role::Responder, &self.session, &challenge, &self.nonce);
        Ok((Proved { keys: self.keys, expected }, proof))
    }
}

/// The side that dialled, its proof sent, waiting for the answer.
pub struct Proved {
    keys: AdmissionKeys,
    expected: Vec<u8>,
}

impl Proved {
    /// Takes the answer.
    ///
    /// # Errors
    /// [`AdmissionError`]; close.
    pub fn handle_answer(self, answer: &[u8]) -> Result<Admitted, AdmissionError> {
        if answer.len() != ANSWER_LENGTH {
            return Err(AdmissionError::Malformed);
        }
        let found = self.keys.0.iter().map(|key| verify(key, &self.expected, answer)).collect::<Vec<_>>();
        let key = found.iter().position(|fits| *fits).ok_or(AdmissionError::OtherToken)?;
        Ok(Admitted { key })
    }
}

#[derive(Clone, Copy)]
enum Role {
    Initiator,
    Responder,
}

/// Every part has a fixed length, so no two sessions give the same bytes.
fn transcript(
    role: Role,
    session: &Session,
    responder_nonce: &[u8; 32],
    initiator_nonce: &[u8; 32],
) -> Vec<u8> {
    let role: &[u8; 16] = match role {
        Role::Initiator => b"c3os admission i",
        Role::Responder => b"c3os admission r",
    };
    let mut bytes = Vec::with_capacity(16 + 2 + 4 * 32);
    bytes.extend_from_slice(role);
    bytes.extend_from_slice(&session.version.to_be_bytes());
    bytes.extend_from_slice(session.initiator.as_bytes());
    bytes.extend_from_slice(session.responder.as_bytes());
    bytes.extend_from_slice(responder_nonce);
    bytes.extend_from_slice(initiator_nonce);
    bytes
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

fn verify(key: &[u8; 32], message: &[u8], mac: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), message, mac).is_ok()
}

#[cfg(test)]
mod tests;
