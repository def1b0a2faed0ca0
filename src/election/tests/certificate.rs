//! What a forged or damaged certificate gets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::world::{World, settings};
use crate::{
    config::MOST_VOTES,
    election::{Certificate, CertificateError, FoundingSettings, bytes},
    ledger::{MAX_VALUE, decode, encode},
};

#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    version: u32,
    #[serde(with = "bytes")]
    value: Vec<u8>,
    proposer: Cut,
    acceptors: Vec<Cut>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Cut {
    #[serde(with = "bytes")]
    before: Vec<u8>,
    #[serde(with = "bytes")]
    after: Vec<u8>,
}

fn founded(machines: usize, minimum: u16) -> Certificate {
    let settings = FoundingSettings { minimum_nodes: Some(minimum), ..settings() };
    let mut world = World::new(vec![settings; machines]);
    world.run(Duration::from_secs(5));
    world.founded.into_values().next().expect("founded")
}

fn forged(certificate: &Certificate, change: impl Fn(&mut Wire)) -> CertificateError {
    let mut wire: Wire = decode(&certificate.to_bytes()).expect("the form is known");
    change(&mut wire);
    Certificate::parse(&encode(&wire).expect("plain data")).expect_err("it was changed")
}

#[test]
fn a_certificate_proves_itself() {
    let certificate = founded(3, 2);
    assert_eq!(certificate.verify(), Ok(()));
    let parsed = Certificate::parse(&certificate.to_bytes()).expect("it was just made");
    assert_eq!(parsed.cluster(), certificate.cluster());
    assert_eq!(parsed.voters().len(), 2);
    assert_eq!(parsed.to_bytes(), certificate.to_bytes());
}

#[test]
fn no_flipped_bit_and_no_cut_passes() {
    let bytes = founded(3, 2).to_bytes();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Certificate::parse(&flipped).is_err(), "byte {at}");
        assert!(Certificate::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn too_few_doubled_or_foreign_votes_are_refused() {
    let certificate = founded(3, 2);
    let other = founded(4, 3);
    let too_few = CertificateError::TooFewVotes { votes: 1, needed: 2 };
    assert_eq!(forged(&certificate, |wire| drop(wire.acceptors.pop())), too_few);
    assert_eq!(
        forged(&certificate, |wire| wire.acceptors[1] = wire.acceptors[0].clone()),
        CertificateError::VotedTwice
    );
    assert_eq!(forged(&certificate, |wire| wire.version = 2), CertificateError::Version(2));
    // Votes for one value do not carry over to another.
    let foreign: Wire = decode(&other.to_bytes()).expect("the form is known");
    assert!(matches!(
        forged(&certificate, |wire| wire.value = foreign.value.clone()),
        CertificateError::Entry(_)
    ));
    assert!(matches!(
        forged(&certificate, |wire| wire.acceptors = foreign.acceptors.clone()),
        CertificateError::Entry(_)
    ));
}

#[test]
fn one_with_the_most_votes_that_may_be_asked_for_fits_into_the_ledger() {
    let largest = founded(MOST_VOTES.into(), MOST_VOTES).to_bytes().len();
    assert!(largest <= MAX_VALUE, "{largest} bytes");
}

#[test]
fn a_vote_costs_few_bytes() {
    let (two, five) = (founded(5, 3).to_bytes().len(), founded(5, 5).to_bytes().len());
    assert!((five - two) / 2 < 330, "{} bytes a vote", (five - two) / 2);
}
