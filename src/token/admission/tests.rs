use super::{AdmissionError, AdmissionKeys, Admitted, Initiator, Responder, Session, VERSION};
use crate::identity::{Identity, NodeId};

fn node(seed: u8) -> NodeId {
    Identity::from_seed(&[seed; 32]).id()
}

fn session() -> Session {
    Session { initiator: node(1), responder: node(2), version: VERSION }
}

fn keys(keys: &[u8]) -> AdmissionKeys {
    let mut all = AdmissionKeys::one(&[keys[0]; 32]);
    for key in &keys[1..] {
        assert!(all.push(&[*key; 32]));
    }
    all
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
