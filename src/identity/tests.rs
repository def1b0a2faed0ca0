use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Identity, NodeId, SealError, Signature};

fn id(seed: u8) -> NodeId {
    Identity::from_seed(&[seed; 32]).id()
}

/// The Ed25519 key of libp2p's own test vectors (libp2p specs, peer-ids), and the peer id that rust-libp2p prints.
const SEED: [u8; 32] = [
    0x7e, 0x08, 0x30, 0x61, 0x7c, 0x4a, 0x7d, 0xe8, 0x39, 0x25, 0xdf, 0xb2, 0x69, 0x45, 0x56, 0xb1, 0x29,
    0x36, 0xc4, 0x77, 0xa0, 0xe1, 0xfe, 0xb2, 0xe1, 0x48, 0xec, 0x9d, 0xa6, 0x0f, 0xee, 0x7d,
];
const PUBLIC: [u8; 32] = [
    0x1e, 0xd1, 0xe8, 0xfa, 0xe2, 0xc4, 0xa1, 0x44, 0xb8, 0xbe, 0x8f, 0xd4, 0xb4, 0x7b, 0xf3, 0xd3, 0xb3,
    0x4b, 0x87, 0x1c, 0x3c, 0xac, 0xf6, 0x01, 0x0f, 0x0e, 0x42, 0xd4, 0x74, 0xfc, 0xe2, 0x7e,
];
const PEER_ID: &str = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";

#[test]
fn the_text_of_an_id_is_libp2ps_peer_id() {
    let identity = Identity::from_seed(&SEED);
    assert_eq!(identity.id(), NodeId::from_bytes(PUBLIC));
    assert_eq!(identity.id().to_string(), PEER_ID);
    assert_eq!(PEER_ID.parse(), Ok(identity.id()));
    assert_eq!(identity.id().short(), "Umo7R3pq");
    assert_eq!(*identity.seed(), SEED);
}

#[cfg(feature = "os")]
#[test]
fn libp2p_prints_the_same_id_for_the_same_seed() {
    for seed in 0..20 {
        let keypair = libp2p::identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        assert_eq!(keypair.public().to_peer_id().to_string(), id(seed).to_string());
    }
}

#[test]
fn ids_of_other_kinds_are_refused() {
    let others = [
        "",
        "12D3KooW",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", // RSA
        "16Uiu2HAmPLe7Mzm8TsYUubgCAW1aJoeFScxrLj8ppHFivPo97bUZ", // secp256k1
        "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6", // the same key as a CID
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3p0", // 0 is no base58 digit
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    ];
    for text in others {
        let error = text.parse::<NodeId>().unwrap_err();
        assert!(error.to_string().contains("12D3KooW"), "{text}");
    }
}

#[test]
fn blanks_around_a_pasted_id_do_no_harm() {
    assert_eq!(format!(" {PEER_ID}\n").parse(), Ok(NodeId::from_bytes(PUBLIC)));
}

#[test]
fn nothing_that_prints_shows_a_secret() {
    let identity = Identity::from_seed(&SEED);
    let shown = format!("{identity:?} {:?} {:?}", identity.id(), identity.sign("test", b"message"));
    assert_eq!(shown.matches("7e08").count(), 0);
    assert!(shown.len() < 120, "{shown}");
}

#[test]
fn a_box_for_an_id_that_is_no_key_cannot_be_made() {
    // Points of small order: whoever claims such an id would share the same secret with everybody.
    let mut one = [0; 32];
    one[0] = 1;
    for forged in [[0; 32], one] {
        let sealed = NodeId::from_bytes(forged).seal("test", b"secret", [9; 32]);
        assert_eq!(sealed.unwrap_err(), SealError::BadRecipient);
    }
    let no_point = (0..=255).map(|byte| NodeId::from_bytes([byte; 32]));
    assert!(no_point.filter(|id| id.seal("test", b"secret", [9; 32]).is_err()).count() > 50);
}

#[test]
fn whoever_claims_an_id_that_is_no_key_can_sign_nothing() {
    // The identity point verifies every message under the lax rules: R = s B for A of order one.
    let mut one = [0; 32];
    one[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert!(!NodeId::from_bytes(one).verify("test", b"message", &Signature::from_bytes(signature)));
}

#[test]
fn equal_boxes_are_never_made_for_two_recipients_or_two_ephemeral_keys() {
    let mut seen = BTreeSet::new();
    for recipient in 1..4 {
        for ephemeral in 1..4 {
            assert!(seen.insert(id(recipient).seal("test", b"secret", [ephemeral; 32]).unwrap()));
        }
    }
}

proptest! {
    #[test]
    fn every_id_comes_back_from_its_text_and_from_its_bytes(bytes: [u8; 32]) {
        let id = NodeId::from_bytes(bytes);
        let text = id.to_string();
        prop_assert_eq!(text.len(), 52);
        prop_assert!(text.starts_with("12D3KooW"));
        prop_assert_eq!(text.parse(), Ok(id));
        prop_assert!(text.ends_with(&id.short()));
        let json = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(&json, &format!("\"{text}\""));
        prop_assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        let cbor = minicbor_serde::to_vec(id).unwrap();
        prop_assert_eq!(cbor.len(), 34, "32 bytes and their head");
        prop_assert_eq!(minicbor_serde::from_slice::<NodeId>(&cbor).unwrap(), id);
    }

    #[test]
    fn ids_order_as_their_bytes_on_every_machine(a: [u8; 32], b: [u8; 32]) {
        prop_assert_eq!(NodeId::from_bytes(a).cmp(&NodeId::from_bytes(b)), a.cmp(&b));
    }

    #[test]
    fn any_text_is_an_id_or_refused(text in ".{0,80}") {
        if let Ok(id) = text.parse::<NodeId>() {
            prop_assert_eq!(id.to_string(), text.trim());
        }
    }

    #[test]
    fn an_id_with_a_wrong_character_is_another_id_or_none(bytes: [u8; 32], at in 8_usize..52, with in "[1-9A-HJ-NP-Za-km-z]") {
        let id = NodeId::from_bytes(bytes);
        let mut text = id.to_string();
        text.replace_range(at..at + 1, &with);
        if text != id.to_string() {
            prop_assert_ne!(text.parse(), Ok(id));
        }
    }

    #[test]
    fn bytes_of_a_wrong_length_are_no_id(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut cbor = Vec::new();
        minicbor::Encoder::new(&mut cbor).bytes(&bytes).unwrap();
        let id = minicbor_serde::from_slice::<NodeId>(&cbor);
        prop_assert_eq!(id.is_ok(), bytes.len() == 32);
    }

    #[test]
    fn a_signature_is_good_for_its_message_its_purpose_and_its_author_only(
        message in prop::collection::vec(any::<u8>(), 0..100),
        bit in 0_usize..512,
    ) {
        let author = Identity::from_seed(&[1; 32]);
        let signature = author.sign("purpose", &message);
        prop_assert!(author.id().verify("purpose", &message, &signature));
        prop_assert!(!author.id().verify("another", &message, &signature));
        prop_assert!(!id(2).verify("purpose", &message, &signature));
        let mut longer = message.clone();
        longer.push(0);
        prop_assert!(!author.id().verify("purpose", &longer, &signature));
        let mut bytes = signature.to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!author.id().verify("purpose", &message, &Signature::from_bytes(bytes)));
    }

    #[test]
    fn the_border_between_purpose_and_message_is_fixed(message in "[a-z]{0,8}") {
        let author = Identity::from_seed(&[1; 32]);
        let signature = author.sign("ab", format!("c{message}").as_bytes());
        prop_assert!(!author.id().verify("abc", message.as_bytes(), &signature));
        prop_assert!(!author.id().verify("a", &[b"bc", message.as_bytes()].concat(), &signature));
    }

    #[test]
    fn a_box_opens_whole_or_not_at_all(
        plaintext in prop::collection::vec(any::<u8>(), 0..200),
        ephemeral: [u8; 32],
        at: prop::sample::Index,
        flip in 1_u8..=255,
    ) {
        let recipient = Identity::from_seed(&[1; 32]);
        let mut sealed = recipient.id().seal("purpose", &plaintext, ephemeral).unwrap();
        prop_assert_eq!(sealed.len(), 32 + plaintext.len() + 16);
        prop_assert_eq!(recipient.open("purpose", &sealed).unwrap().to_vec(), plaintext);
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        prop_assert_eq!(recipient.open("purpose", &sealed), Err(SealError::NotForUs));
    }
}
