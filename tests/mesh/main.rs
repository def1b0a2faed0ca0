//! Real nodes on loopback: finding, admission, messages, requests, and what strangers get.
#![expect(clippy::disallowed_methods, reason = "these tests run on real sockets and clocks")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one event among all")]

mod nodes;
mod stranger;

mod admission;
mod discovery;
mod flood;
mod forger;
mod gate;
mod lan;
mod neighbours;
mod requests;
