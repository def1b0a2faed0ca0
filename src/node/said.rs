//! Saying our own facts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::ledger::{self, Ledger};

/// How long a visitor's facts live after it is gone.
const VISIT: Duration = Duration::from_secs(120);

/// Says facts through the ledger, which ignores what stands already; a visitor's fade, and are said again in time.
pub(super) struct Said {
    visitor: bool,
    /// When a visitor has to say which fact again.
    again: BTreeMap<String, Instant>,
}

impl Said {
    pub(super) fn new(visitor: bool) -> Self {
        Self { visitor, again: BTreeMap::new() }
    }

    /// Has the ledger hold `fact` under our `key`.
    pub(super) fn say(&mut self, ledger: &mut Ledger, key: &str, fact: &impl Serialize, now: Instant) {
        match ledger::encode(fact) {
            Ok(bytes) => self.say_bytes(ledger, key, bytes, now),
            Err(error) => tracing::error!(key, %error, "A fact cannot be encoded"),
        }
    }

    /// The same for a fact that is encoded already.
    pub(super) fn say_bytes(&mut self, ledger: &mut Ledger, key: &str, bytes: Vec<u8>, now: Instant) {
        if ledger.latest(key) == Some(bytes.as_slice()) && !self.fades(key, now) {
            return;
        }
        let ttl = self.visitor.then_some(VISIT);
        match ledger.put(key.parse().expect("our own keys are well formed"), bytes, ttl, now) {
            Ok(()) => {
                self.again.extend(ttl.map(|ttl| (key.to_owned(), now + ttl / 2)));
            }
            Err(error) => tracing::error!(key, %error, "A fact cannot be said"),
        }
    }

    /// Whether a visitor's fact has to be said again.
    pub(super) fn fades(&self, key: &str, now: Instant) -> bool {
        self.again.get(key).is_some_and(|again| *again <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let again = self.again.values().min()?;
        Some((*again, "say a visitor's facts again"))
    }
}
