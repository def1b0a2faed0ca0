use super::{
    AdmissionError, AdmissionKeys, Admitted, Initiator, MAXIMUM_PROOF_LENGTH, Responder, Session, VERSION,
};
use crate::{
    identity::{Identity, NodeId},
    token::keys::hex,
};

fn node(seed: u8) -> NodeId {
    Identity::from_seed(&[seed; 32]).id()
}

fn session() -> Session {
    Session { initiator: node(1), responder: node(2), version: VERSION }
}

fn keys(keys: &[u8]) -> AdmissionKeys {
    AdmissionKeys::several(keys.iter().map(|key| [*key; 32]).collect::<Vec<_>>().iter())
}

/// Runs both sides; what each thinks of the other.
fn run(
    (initiator_keys, initiator_session): (&[u8], Session),
    (responder_keys, responder_session): (&[u8], Session),
) -> (Result<Admitted, AdmissionError>, Result<Admitted, AdmissionError>) {
    let (responder, challenge) = Responder::new(keys(responder_keys), responder_session, [7; 32]);
    let initiator = Initiator::new(keys(initiator_keys), initiator_session, [8; 32]);
    let (proved, proof) = initiator.handle_challenge(&challenge).unwrap();
    match responder.handle_proof(&proof) {
        Ok((admitted, answer)) => (proved.handle_answer(&answer), Ok(admitted)),
        Err(error) => (Err(error), Err(error)),
    }
}

#[test]
fn two_who_know_the_token_admit_each_other() {
    let ok = Ok(Admitted { key: 0 });
    assert_eq!(run((&[1], session()), (&[1], session())), (ok, ok));
}

#[test]
fn another_token_admits_nobody() {
    let no = Err(AdmissionError::OtherToken);
    assert_eq!(run((&[1], session()), (&[2], session())), (no, no));
}

#[test]
fn while_a_token_is_replaced_the_one_that_both_have_counts() {
    let (first, second) = (Ok(Admitted { key: 0 }), Ok(Admitted { key: 1 }));
    assert_eq!(run((&[1], session()), (&[2, 1], session())), (first, second));
    assert_eq!(run((&[2, 1], session()), (&[1], session())), (second, first));
    assert_eq!(run((&[2, 1], session()), (&[2, 1], session())), (first, first));
    assert_eq!(
        run((&[1, 2], session()), (&[2, 1], session())),
        (second, first),
        "the responder's order counts"
    );
}

#[test]
fn a_proof_is_good_for_its_two_nodes_its_direction_and_its_version_only() {
    let no = Err(AdmissionError::OtherToken);
    let ours = session();
    for other in [
        Session { initiator: node(3), ..ours },
        Session { responder: node(3), ..ours },
        Session { initiator: ours.responder, responder: ours.initiator, ..ours },
        Session { version: VERSION + 1, ..ours },
    ] {
        assert_eq!(run((&[1], ours), (&[1], other)), (no, no), "{other:?}");
    }
}

#[test]
fn a_replayed_proof_or_answer_is_worth_nothing() {
    let key = || keys(&[1]);
    let (responder, challenge) = Responder::new(key(), session(), [7; 32]);
    let (_, proof) = Initiator::new(key(), session(), [8; 32]).handle_challenge(&challenge).unwrap();
    let (_, answer) = responder.handle_proof(&proof).unwrap();

    let (later, challenge) = Responder::new(key(), session(), [9; 32]);
    assert_eq!(later.handle_proof(&proof).unwrap_err(), AdmissionError::OtherToken);
    let (proved, _) = Initiator::new(key(), session(), [10; 32]).handle_challenge(&challenge).unwrap();
    assert_eq!(proved.handle_answer(&answer), Err(AdmissionError::OtherToken));
}

#[test]
fn who_reflects_what_it_is_sent_proves_nothing() {
    let initiator = Initiator::new(keys(&[1]), session(), [8; 32]);
    let (proved, proof) = initiator.handle_challenge(&[7; 32]).unwrap();
    assert_eq!(proved.handle_answer(&proof[32..]), Err(AdmissionError::OtherToken));

    // A stranger who is dialled by the same node that it dials, and carries the proof from one to the other.
    let (stranger, member) = (node(3), node(1));
    let dialled = Session { initiator: stranger, responder: member, version: VERSION };
    let (responder, challenge) = Responder::new(keys(&[1]), dialled, [5; 32]);
    let dialling = Session { initiator: member, responder: stranger, version: VERSION };
    let (_, proof) = Initiator::new(keys(&[1]), dialling, [6; 32]).handle_challenge(&challenge).unwrap();
    assert_eq!(responder.handle_proof(&proof).unwrap_err(), AdmissionError::OtherToken);
}

#[test]
fn messages_of_a_wrong_length_are_no_messages() {
    let no = AdmissionError::Malformed;
    for length in [0, 31, 33, 64] {
        let initiator = Initiator::new(keys(&[1]), session(), [8; 32]);
        assert_eq!(initiator.handle_challenge(&vec![0; length]).err(), Some(no));
    }
    for length in [0, 31, 32, 63, 65, 95, MAXIMUM_PROOF_LENGTH + 1, MAXIMUM_PROOF_LENGTH + 32, 100_000] {
        let (responder, _) = Responder::new(keys(&[1]), session(), [7; 32]);
        assert_eq!(responder.handle_proof(&vec![0; length]).err(), Some(no));
    }
    for length in [0, 31, 33] {
        let initiator = Initiator::new(keys(&[1]), session(), [8; 32]);
        let (proved, _) = initiator.handle_challenge(&[7; 32]).unwrap();
        assert_eq!(proved.handle_answer(&vec![0; length]), Err(no));
    }
}

#[test]
fn a_side_holds_a_bounded_number_of_keys() {
    let all = keys(&[1, 2, 3, 4, 5]);
    let (_, proof) = Initiator::new(all, session(), [8; 32]).handle_challenge(&[7; 32]).unwrap();
    assert_eq!(proof.len(), MAXIMUM_PROOF_LENGTH);
}

#[test]
fn every_changed_bit_of_the_exchange_is_noticed() {
    for bit in 0..(32 + 64 + 32) * 8 {
        let flip = |message: &mut Vec<u8>, first: usize| {
            if (first..first + message.len()).contains(&(bit / 8)) {
                message[bit / 8 - first] ^= 1 << (bit % 8);
            }
        };
        let (responder, mut challenge) = Responder::new(keys(&[1]), session(), [7; 32]);
        flip(&mut challenge, 0);
        let initiator = Initiator::new(keys(&[1]), session(), [8; 32]);
        let (proved, mut proof) = initiator.handle_challenge(&challenge).unwrap();
        flip(&mut proof, 32);
        let Ok((_, mut answer)) = responder.handle_proof(&proof) else { continue };
        flip(&mut answer, 96);
        assert_eq!(proved.handle_answer(&answer), Err(AdmissionError::OtherToken), "bit {bit}");
    }
}

#[test]
fn messages_of_a_known_exchange_never_change() {
    let session = Session {
        initiator: NodeId::from_bytes([1; 32]),
        responder: NodeId::from_bytes([2; 32]),
        version: VERSION,
    };
    let (responder, challenge) = Responder::new(keys(&[1]), session, [7; 32]);
    let (_, proof) = Initiator::new(keys(&[1]), session, [8; 32]).handle_challenge(&challenge).unwrap();
    let (_, answer) = responder.handle_proof(&proof).unwrap();
    assert_eq!(challenge, [7; 32]);
    assert_eq!(proof[..32], [8; 32]);
    // Computed by another HMAC (Python's).
    assert_eq!(hex(&proof[32..]), "0c07fa2d79a66566e9fac843a4d1480bff95abde534d5f8eb378a17b2a90009b");
    assert_eq!(hex(&answer), "d82446d64f9facf4bd3ba8a60369de774e81fc06ca9b3fd055a51c40dadc76ab");
}
