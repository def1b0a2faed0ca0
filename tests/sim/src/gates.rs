//! Who gets in, where machines have a network token: what one proves to the other, and what becomes of connections when
//! a token is replaced.

use std::time::Duration;

use c3os::{
    node::{Command, snapshot::Phase},
    token::Verdict,
};

use crate::world::{Happening, World, pair};

/// How often machines that are not connected try again.
const MEET: Duration = Duration::from_secs(1);

impl World {
    /// Machines try to connect from now on, again and again.
    pub(super) fn keep_meeting(&mut self) {
        self.later(MEET, Happening::Meets);
        self.connect();
    }

    /// Whether two machines let each other in. Who has only an old token gets the new one from the other.
    pub(super) fn admit_each_other(&mut self, a: usize, b: usize) -> bool {
        let (Some(one), Some(other)) = (&self.hosts[a].gate, &self.hosts[b].gate) else { return true };
        // The one that is dialled prefers.
        let knows = |id: &[u8; 8]| one.tokens().any(|token| token.token_id == *id);
        let Some(token) = other.tokens().map(|token| token.token_id).find(knows) else { return false };
        let verdicts = (one.judge(&self.hosts[b].id(), &token), other.judge(&self.hosts[a].id(), &token));
        match verdicts {
            (Verdict::Member, Verdict::Member) => {
                self.proven.insert(pair(a, b), token);
                return true;
            }
            (Verdict::Errand, Verdict::Member) => self.run_errand(a, b),
            (Verdict::Member, Verdict::Errand) => self.run_errand(b, a),
            (Verdict::Refused | Verdict::Errand, _) | (_, Verdict::Refused) => {}
        }
        false
    }

    fn run_errand(&mut self, giver: usize, taker: usize) {
        let (now, peer) = (self.now, self.hosts[taker].id());
        let bytes = self.hosts[giver].node.as_ref().and_then(|node| node.errand_for(peer));
        if let Some(bytes) = bytes {
            self.hosts[taker].handle_errand(&bytes, now);
            self.touched.insert(taker);
        }
    }

    /// A machine lets in other ones than before: connections with those that it does not keep end.
    pub(super) fn handle_gate(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            let Some(token) = self.proven.get(&pair(host, other)).copied() else { continue };
            let keeps = |a: usize, b: usize| {
                let peer = self.hosts[b].id();
                self.hosts[a].gate.as_ref().is_none_or(|gate| gate.keeps(&peer, &token))
            };
            if !(keeps(host, other) && keeps(other, host)) {
                self.proven.remove(&pair(host, other));
                self.disconnect(|a, b| pair(a, b) == pair(host, other));
            }
        }
        self.connect();
    }

    /// Has the lead replace the token, or ban somebody who is no server.
    pub(super) fn command_lead(&mut self, ban: bool) {
        let leads = |host: &crate::host::Host| {
            host.node.as_ref().is_some_and(|node| node.lead_of_cluster() == Some(host.id()))
        };
        let Some(lead) = (0..self.hosts.len()).find(|host| leads(&self.hosts[*host])) else { return };
        let other = (0..self.hosts.len()).rev().find(|host| *host != lead && !self.hosts[*host].is_server());
        let command = match other.filter(|_| ban) {
            Some(other) => Command::Ban { node: self.hosts[other].id(), keep_token: false },
            None => Command::Rotate,
        };
        let now = self.now;
        let done = self.hosts[lead].handle_command(command, now);
        if done && let Some(other) = other.filter(|_| ban) {
            self.banned.insert(self.hosts[other].id());
        }
        self.counts.rotations += u64::from(done);
        self.touched.insert(lead);
    }

    /// Whether all use one network token, nothing of its replacement is left to do, and whoever was banned is out.
    ///
    /// # Errors
    /// What is not so.
    pub fn is_rotated(&self) -> Result<(), String> {
        let mut numbers = std::collections::BTreeSet::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            if self.banned.contains(&host.id()) {
                if self.proven.keys().any(|(a, b)| *a == at || *b == at) {
                    return Err(format!("{} is banned, and connected", host.name));
                }
                continue;
            }
            numbers.extend(node.tokens().map(|tokens| tokens.number()));
            let phase = node.snapshot().rotation.map(|rotation| rotation.phase);
            if !matches!(phase, None | Some(Phase::Done)) {
                return Err(format!("{} is at {phase:?}", host.name));
            }
        }
        if numbers.len() == 1 { Ok(()) } else { Err(format!("tokens number {numbers:?} are in use")) }
    }
}
