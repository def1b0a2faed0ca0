//! The DNS messages (RFC 1035, RFC 6762).
//!
//! A question for TXT at `NAME.SALT.local`: SALT is 64 random bits, NAME what the token's keys make of them. Only a
//! member can tell such a name from random digits, no two questions can be linked, and no clock is needed. The
//! asker's own record rides along as a known answer, so one packet introduces it to everybody.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::TXT},
};

use crate::identity::NodeId;

/// Seconds that others may keep a record.
const TTL: u32 = 120;
/// Addresses taken from one record.
const ADDRESSES: usize = 8;

/// A node and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mesh) struct Sighting {
    pub(in crate::mesh) id: NodeId,
    pub(in crate::mesh) addresses: Vec<SocketAddr>,
}

/// A message of ours, as far as its shape tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Somebody asks, and says who it is.
    Question { salt: u64, name: String, asker: Option<Sighting>, id: u16 },
    /// Somebody answers.
    Answer { salt: u64, name: String, sightings: Vec<Sighting> },
}

/// The question for `name`, as the token's keys made it of `salt`.
pub(super) fn question(salt: u64, name: &str, asker: &Sighting) -> Option<Vec<u8>> {
    let domain = domain(salt, name)?;
    let mut message = Message::new();
    message.set_id(salt as u16).set_message_type(MessageType::Query).set_op_code(OpCode::Query);
    message.add_query(query(&domain));
    message.add_answer(record(&domain, asker));
    message.to_vec().ok()
}

/// The answer to a question, to its sender alone.
pub(super) fn answer(salt: u64, name: &str, id: u16, who: &Sighting) -> Option<Vec<u8>> {
    let domain = domain(salt, name)?;
    let mut message = Message::new();
    message
        .set_id(id)
        .set_message_type(MessageType::Response)
        .set_op_code(OpCode::Query)
        .set_authoritative(true);
    message.add_query(query(&domain));
    message.add_answer(record(&domain, who));
    message.to_vec().ok()
}

/// Reads a datagram; none for anything that is not ours by its shape.
pub(super) fn parse(datagram: &[u8]) -> Option<Packet> {
    let message = Message::from_vec(datagram).ok()?;
    let [query] = message.queries() else { return None };
    if query.query_type() != RecordType::TXT {
        return None;
    }
    let (salt, name) = split(query.name())?;
    let ours = message.answers().iter().filter(|record| record.name() == query.name());
    let mut sightings = ours.filter_map(sighting);
    Some(match message.message_type() {
        MessageType::Query => Packet::Question { salt, name, asker: sightings.next(), id: message.id() },
        MessageType::Response => Packet::Answer { salt, name, sightings: sightings.collect() },
    })
}

fn domain(salt: u64, name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.{salt:016x}.local.")).ok()
}

fn split(domain: &Name) -> Option<(u64, String)> {
    let mut labels = domain.iter();
    let (name, salt, local) = (labels.next()?, labels.next()?, labels.next()?);
    let salt = std::str::from_utf8(salt).ok().filter(|salt| salt.len() == 16)?;
    let name = std::str::from_utf8(name).ok()?;
    let ours = local.eq_ignore_ascii_case(b"local") && labels.next().is_none();
    ours.then_some((u64::from_str_radix(salt, 16).ok()?, name.to_ascii_lowercase()))
}

fn query(domain: &Name) -> Query {
    let mut query = Query::query(domain.clone(), RecordType::TXT);
    query.set_query_class(DNSClass::IN);
    query
}

fn record(domain: &Name, who: &Sighting) -> Record {
    let addresses = who.addresses.iter().take(ADDRESSES).map(|address| format!("at={address}"));
    let texts = std::iter::once(format!("id={}", who.id)).chain(addresses).collect();
    Record::from_rdata(domain.clone(), TTL, RData::TXT(TXT::new(texts)))
}

fn sighting(record: &Record) -> Option<Sighting> {
    let text = record.data().as_txt()?;
    let mut texts = text.txt_data().iter().filter_map(|text| std::str::from_utf8(text).ok());
    let id = texts.next()?.strip_prefix("id=")?.parse().ok()?;
    let addresses = texts.filter_map(|text| text.strip_prefix("at=")?.parse::<SocketAddr>().ok());
    let dialable = |address: &SocketAddr| {
        address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
    };
    Some(Sighting { id, addresses: addresses.filter(dialable).take(ADDRESSES).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn somebody() -> Sighting {
        let id = crate::identity::Identity::from_seed(&[3; 32]).id();
        let addresses =
            ["192.0.2.1:4001", "[2001:db8::1]:4001"].map(|address| address.parse().expect(address));
        Sighting { id, addresses: addresses.to_vec() }
    }

    #[test]
    fn a_question_introduces_its_asker_and_an_answer_its_sender() {
        let name = "0123456789abcdef0123456789abcdef";
        let question = question(0xfedc, name, &somebody()).expect("a packet");
        assert!(question.len() < 250, "{} bytes", question.len());
        let Some(Packet::Question { salt, name: asked, asker, id }) = parse(&question) else {
            panic!("a question")
        };
        assert_eq!((salt, asked.as_str(), asker), (0xfedc, name, Some(somebody())));
        let answer = answer(salt, name, id, &somebody()).expect("a packet");
        let sightings = vec![somebody()];
        assert_eq!(parse(&answer), Some(Packet::Answer { salt, name: name.to_owned(), sightings }));
    }

    #[test]
    fn other_services_packets_are_not_ours() {
        let mut message = Message::new();
        let name = Name::from_ascii("_services._dns-sd._udp.local.").expect("a name");
        message.add_query(Query::query(name, RecordType::PTR));
        assert_eq!(parse(&message.to_vec().expect("a packet")), None);
    }

    #[test]
    fn addresses_that_nobody_can_dial_are_left_out() {
        let mut who = somebody();
        who.addresses =
            ["0.0.0.0:1", "192.0.2.1:0", "224.0.0.251:5353"].map(|a| a.parse().expect(a)).to_vec();
        let Some(Packet::Question { asker, .. }) = parse(&question(1, "a", &who).expect("a packet")) else {
            panic!("a question")
        };
        assert_eq!(asker.expect("an asker").addresses, []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_damage_is_survived(at in 0_usize..200, byte: u8) {
            let mut packet = question(7, "0123456789abcdef", &somebody()).expect("a packet");
            let length = packet.len();
            packet[at % length] = byte;
            let _ = parse(&packet);
        }
    }
}
