//! What happens to machines and to the network between them.

use std::time::Duration;

use c3os::election::{Ballot, RENEW_LEASE};
use rand::{Rng, RngCore};

use crate::{
    host::{AfterCrash, Carried},
    world::{Asked, Happening, World, pair},
};

/// Something that happens to the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Power on.
    Boot(usize),
    /// Power off.
    Crash(usize, AfterCrash),
    /// Power off while the n-th write from now on that carries one of the machine's own registers is half done, and
    /// on again after a while.
    CrashAtWrite { host: usize, carries: Carried, nth: u8, after: AfterCrash, off: Duration },
    /// No packet passes between two machines any more.
    Cut(usize, usize),
    /// No packet passes between this machine and all others any more.
    CutOff(usize),
    /// Whoever is the n-th from now on to ask for a ballot is cut off from all others before anybody hears it.
    CutOffProposer { nth: u8 },
    /// What the second one sends to the first is lost, and nobody notices.
    Deafen(usize, usize),
    /// The machine is suspended for so long: nothing runs on it, and its clock stands still.
    Stall(usize, Duration),
    /// An image of the disk is taken.
    Image(usize),
    /// Power off, and the image is put back.
    Restore(usize),
    /// All cuts are mended.
    Heal,
    /// Faults that still wait for a write do not happen any more.
    Disarm,
    /// The lead replaces the network token.
    Rotate,
    /// The lead bans a machine, which replaces the token too.
    Ban,
    /// A member sends everybody broken copies of what it could send.
    Garble(usize),
}

/// A crash that waits for a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Armed {
    host: usize,
    carries: Carried,
    nth: u8,
    after: AfterCrash,
    off: Duration,
}

impl World {
    /// Carries out an action now.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Boot(host) => {
                if self.hosts[host].is_up() {
                    return;
                }
                let mut seed = [0; 32];
                self.rng.fill_bytes(&mut seed);
                let now = self.now;
                self.hosts[host].boot(seed, now);
                self.touched.insert(host);
                let boot = self.hosts[host].boots;
                self.later(self.weather.discovery, Happening::DiscoveryExhausted { host, boot });
                if self.hosts[host].config.auto.additional_servers > 0 {
                    let after = self.between((Duration::ZERO, RENEW_LEASE));
                    self.later(after, Happening::AsksApi { host, boot });
                }
                self.connect();
            }
            Action::Crash(host, after) => {
                if !self.hosts[host].is_up() {
                    return;
                }
                self.counts.crashes += 1;
                self.counts.torn_writes += u64::from(self.hosts[host].is_writing());
                self.counts.ledgers_lost += u64::from(after == AfterCrash::LedgerLost);
                self.stalled.remove(&host);
                if self.hosts[host].crash(after) {
                    self.torn_promises.push(host);
                }
                self.touched.insert(host);
                self.believed.retain(|(at, _), _| *at != host);
                self.disconnect(|a, b| a == host || b == host);
            }
            Action::CrashAtWrite { host, carries, nth, after, off } => {
                self.armed.push(Armed { host, carries, nth, after, off });
            }
            Action::Cut(a, b) => self.cut(a, b),
            Action::CutOff(host) => (0..self.hosts.len()).for_each(|other| self.cut(host, other)),
            Action::CutOffProposer { nth } => self.cut_off_at.push(nth),
            Action::Deafen(at, to) => {
                self.counts.deafened += u64::from(at != to && self.deaf.insert((at, to)));
            }
            Action::Stall(host, length) => {
                if self.hosts[host].is_up() && !self.stalled.contains_key(&host) {
                    self.stalled.insert(host, self.now + length);
                    self.hosts[host].clock.stop(length);
                    self.counts.stalls += 1;
                    self.timers[host] = self.timers[host].map(|timer| timer + length);
                }
            }
            Action::Image(host) => self.hosts[host].image = Some(self.hosts[host].disk.clone()),
            Action::Restore(host) => {
                self.act(Action::Crash(host, AfterCrash::Kept));
                let host = &mut self.hosts[host];
                if let Some(image) = host.image.take() {
                    host.disk = image;
                    self.counts.restored += 1;
                }
            }
            Action::Heal => {
                self.deaf.clear();
                if !self.cuts.is_empty() {
                    self.counts.heals += 1;
                    self.cuts.clear();
                }
                self.connect();
            }
            Action::Disarm => {
                self.stalled.clear();
                self.armed.clear();
                self.cut_off_at.clear();
            }
            Action::Rotate => self.command_lead(false),
            Action::Ban => self.command_lead(true),
            Action::Garble(host) => self.garble(host),
        }
        self.settle();
    }

    /// Messages that came to a host, with some bytes changed, and noise.
    fn garble(&mut self, host: usize) {
        let heard: Vec<Vec<u8>> = self.hosts[host].heard.iter().cloned().collect();
        for to in 0..self.hosts.len() {
            for bytes in &heard {
                let mut bytes = bytes.clone();
                for _ in 0..self.rng.random_range(1..4) {
                    let at = self.rng.random_range(0..bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.rng.random();
                    }
                }
                self.send(host, self.ids[to], bytes);
            }
            let mut noise = vec![0; self.rng.random_range(0..300)];
            self.rng.fill_bytes(&mut noise);
            self.send(host, self.ids[to], noise);
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if a != b && self.cuts.insert(pair(a, b)) {
            self.counts.cuts += 1;
            self.disconnect(|x, y| pair(x, y) == pair(a, b));
        }
    }

    /// A ballot is on its proposer's disk, and nobody else knows of it yet.
    pub(super) fn handle_asked(&mut self, host: usize, ballot: Ballot) {
        let from_somebody = |(a, b): &(usize, usize)| {
            (*a == host || *b == host) && self.hosts[*a].is_up() && self.hosts[*b].is_up()
        };
        let while_cut = self.cuts.iter().any(from_somebody);
        self.asked.push(Asked { host, ballot, while_cut });
        let mut now = false;
        self.cut_off_at.retain_mut(|left| {
            now |= *left <= 1;
            *left = left.saturating_sub(1);
            *left > 0
        });
        if now {
            self.act(Action::CutOff(host));
        }
    }

    /// A write begins that takes so long: crashes that waited for it happen in the middle.
    pub(super) fn spring(&mut self, host: usize, length: Duration) {
        let writes = [Carried::Answer, Carried::Ballot].map(|what| self.hosts[host].is_writing_own(what));
        let mut sprung = Vec::new();
        self.armed.retain_mut(|armed| {
            let carried = match armed.carries {
                Carried::Answer => writes[0],
                Carried::Ballot => writes[1],
            };
            if armed.host != host || !carried {
                return true;
            }
            armed.nth = armed.nth.saturating_sub(1);
            if armed.nth == 0 {
                sprung.push(*armed);
            }
            armed.nth > 0
        });
        for armed in sprung {
            self.plan_always(length / 2, Action::Crash(host, armed.after));
            self.plan_always(length / 2 + armed.off, Action::Boot(host));
        }
    }
}
