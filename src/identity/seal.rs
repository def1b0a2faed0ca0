//! Sealing to one recipient: X25519 with an ephemeral key, HKDF-SHA256, ChaCha20-Poly1305.
//!
//! The shape of an ECIES box: `ephemeral public key (32) | ciphertext | tag (16)`. The recipient's X25519 key is
//! the Montgomery form of its Ed25519 key (RFC 7748 and RFC 8032 share the curve), so a node needs no second key.
//! The key of each box is used once, hence the constant nonce.

use ed25519_dalek::{SigningKey, VerifyingKey};
use hkdf::Hkdf;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Why a sealed box cannot be made or opened. It says no more, so that it is no oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The recipient's id is not a point on the curve.
    #[error("the recipient's id is not a valid key")]
    BadRecipient,
    /// Sealed to somebody else, for another purpose, or changed on the way.
    #[error("this was not sealed to this node for this purpose, or it was changed on the way")]
    NotForUs,
}

pub(super) fn seal(
    recipient: &[u8; 32],
    context: &'static str,
    plaintext: &[u8],
    ephemeral: [u8; 32],
) -> Result<Vec<u8>, SealError> {
    let recipient = VerifyingKey::from_bytes(recipient).map_err(|_| SealError::BadRecipient)?;
    let recipient = PublicKey::from(recipient.to_montgomery().to_bytes());
    let ephemeral = StaticSecret::from(ephemeral);
    let public = PublicKey::from(&ephemeral);
    let shared = ephemeral.diffie_hellman(&recipient);
    if !shared.was_contributory() {
        return Err(SealError::BadRecipient);
    }
    let key = box_key(shared.as_bytes(), &public, &recipient, context);
    let mut ciphertext = plaintext.to_vec();
    key.seal_in_place_append_tag(zero_nonce(), Aad::from(context), &mut ciphertext)
        .map_err(|_| SealError::BadRecipient)?;
    let mut sealed = public.as_bytes().to_vec();
    sealed.append(&mut ciphertext);
    Ok(sealed)
}

pub(super) fn open(
    key: &SigningKey,
    context: &'static str,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (public, ciphertext) = sealed.split_first_chunk::<32>().ok_or(SealError::NotForUs)?;
    let public = PublicKey::from(*public);
    let secret = StaticSecret::from(key.to_scalar_bytes());
    let own = PublicKey::from(&secret);
    let shared = secret.diffie_hellman(&public);
    if !shared.was_contributory() {
        return Err(SealError::NotForUs);
    }
    let key = box_key(shared.as_bytes(), &public, &own, context);
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let length = key
        .open_in_place(zero_nonce(), Aad::from(context), &mut plaintext)
        .map_err(|_| SealError::NotForUs)?
        .len();
    plaintext.truncate(length);
    Ok(plaintext)
}

fn box_key(shared: &[u8; 32], ephemeral: &PublicKey, recipient: &PublicKey, context: &str) -> LessSafeKey {
    let mut salt = [0; 64];
    salt[..32].copy_from_slice(ephemeral.as_bytes());
    salt[32..].copy_from_slice(recipient.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(&salt), shared)
        .expand_multi_info(&[b"c3os seal v1 ", context.as_bytes()], key.as_mut())
        .expect("32 bytes are within HKDF's limit");
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).expect("the key has 32 bytes"))
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use crate::identity::{Identity, SealError};

    #[test]
    fn only_the_recipient_opens_and_only_in_the_same_context() {
        let (alice, bob) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let sealed = bob.id().seal("agent token", b"secret", [9; 32]).expect("bob's id is a key");
        assert_eq!(bob.open("agent token", &sealed).expect("sealed to bob").as_slice(), b"secret");
        assert_eq!(alice.open("agent token", &sealed), Err(SealError::NotForUs));
        assert_eq!(bob.open("server token", &sealed), Err(SealError::NotForUs));
        for cut in 0..sealed.len() {
            assert_eq!(bob.open("agent token", &sealed[..cut]), Err(SealError::NotForUs));
        }
    }
}
