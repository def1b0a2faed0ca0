//! Real nodes on loopback: finding, admission, messages, requests, and what strangers get.
#![expect(clippy::disallowed_methods, reason = "these tests run on real sockets and clocks")]
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod nodes;
mod stranger;

mod admission;
mod discovery;
mod idle;
mod neighbours;
mod requests;
