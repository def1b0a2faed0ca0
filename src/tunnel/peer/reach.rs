//! Whether and where a peer answers: probes, the search for a path, the watch on a session in use, pings.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::RngCore;

use super::{News, Output, Peer};
use crate::tunnel::{
    message::Message,
    path::{Endpoint, Path},
    session::Session,
    wire::META,
};

/// A probe without answer after this is lost.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Until then its answer is still taken: behind full buffers a path is slow, not dead.
const LATE: Duration = Duration::from_secs(4);
/// Between the rounds of probes that look for a path, and how many.
pub(super) const SEARCH: Duration = Duration::from_millis(400);
pub(super) const SEARCH_ROUNDS: u8 = 8;
/// How often a session in use is looked at.
pub(super) const WATCH: Duration = Duration::from_secs(5);
/// How often when something was sent and nothing came back, and after how many such looks, or lost probes, what
/// happens.
const WORRIED_WATCH: Duration = Duration::from_millis(700);
const PATH_FAILS_AFTER: u8 = 2;
const SESSION_FAILS_AFTER: u8 = 4;
/// How long a ping may take, handshake included.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a ping has no round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// The id is none of the peers that we have routes for.
    #[error("no route to that node: it is not on the mesh, or has no overlay address yet")]
    UnknownPeer,
    /// The peer was asked and did not answer in five seconds.
    #[error("no answer through the data plane within 5 s")]
    NoAnswer,
}

pub(super) struct Probe {
    pub(super) path: Path,
    pub(super) sent: Instant,
    pub(super) purpose: Purpose,
    /// Counted as lost; its answer may still come.
    pub(super) lost: bool,
}

/// What a probe is to show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Whether the path answers, and how soon.
    Search,
    /// Whether the way taken still carries what we send.
    Watch,
    /// Whether the peer itself moved there: the path is taken if it answers, whatever the others are like.
    Move,
    /// The round trip, for the ping with this token.
    Ping(u64),
    /// Whether an inner packet of so many bytes gets through.
    Size(u16),
}

/// A look at a session in use.
pub(super) struct Watch {
    pub(super) next: Instant,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Looks in a row without any datagram received.
    pub(super) silent: u8,
    /// Probes in a row that the way taken left unanswered. What is received meanwhile proves nothing: it may come
    /// another way, or ours may carry one direction only.
    pub(super) unanswered: u8,
}

impl Peer {
    pub(in crate::tunnel) fn handle_ping(&mut self, token: u64, now: Instant, out: &mut Output) {
        self.pings.push((token, now + PING_TIMEOUT));
        self.send_pings(now, out);
    }

    /// An authentic datagram came from an address that the peer was not known at.
    pub(in crate::tunnel) fn handle_moved(
        &mut self,
        session: &Arc<Session>,
        from: Endpoint,
        now: Instant,
        out: &mut Output,
    ) {
        session.settle();
        if out.is_inside(from) {
            return;
        }
        let path = Path::of(self.paths.ports(), from);
        self.paths.add(path);
        // A stream is not where a peer moves to; it answers there if it has to.
        let purpose = if path.is_stream() { Purpose::Search } else { Purpose::Move };
        // One at a time, or what two ends say on a path unknown to both would multiply.
        let asked = |probe: &Probe| !probe.lost && probe.purpose == purpose && probe.path == path;
        if self.is_current(session) && !self.probes.values().any(asked) {
            self.probe(path, purpose, now, out);
        }
    }

    pub(in crate::tunnel) fn handle_probe(
        &mut self,
        session: &Arc<Session>,
        number: u64,
        from: Endpoint,
        out: &mut Output,
    ) {
        self.send(session, &Message::ProbeAck(number), from, out);
    }

    pub(in crate::tunnel) fn handle_probe_ack(&mut self, number: u64, now: Instant, out: &mut Output) {
        let Some(probe) = self.probes.remove(&number) else { return };
        let round_trip = now.saturating_duration_since(probe.sent);
        let had_path = self.paths.chosen().is_some();
        let mut changed = self.paths.answered(probe.path, round_trip);
        match probe.purpose {
            Purpose::Search | Purpose::Watch => {}
            // Other sizes are tried already.
            Purpose::Size(_) if probe.lost => {}
            Purpose::Move => changed |= self.paths.take(probe.path),
            Purpose::Ping(token) => {
                if let Some(waiting) = self.pings.iter().position(|(known, _)| *known == token) {
                    self.pings.remove(waiting);
                    out.pongs.push_back((token, Ok(round_trip)));
                }
            }
            Purpose::Size(size) => self.size_probed(probe.path, size, true, now, out),
        }
        if let Some(watch) = &mut self.watch {
            watch.silent = 0;
            if self.paths.chosen() == Some(probe.path) {
                watch.unanswered = 0;
            }
        }
        if self.current.is_some() {
            self.search = None;
        }
        // A path that has just answered is one where the peer may be heard from, so the table has to know it.
        out.table_changed = true;
        if changed && let Some(path) = self.paths.chosen() {
            tracing::debug!(peer = %self.id.short(), ?path, ?round_trip, "data path chosen");
            if !had_path {
                out.news.push_back(News::Connected(self.id, path));
            }
            self.search_mtu(now, out);
        }
        self.flush(now, out);
    }

    /// The next packet of a session that asked for attention is being sent.
    pub(in crate::tunnel) fn handle_attention(&mut self, now: Instant) {
        if self.watch.is_none() {
            self.start_watch(now, WATCH, 0);
        }
    }

    /// There is reason to doubt that the peer still has our session: it has to answer at once, or a handshake follows.
    pub(in crate::tunnel) fn doubt(&mut self, now: Instant, out: &mut Output) {
        if let Some((_, path)) = self.sending() {
            self.probe(path, Purpose::Watch, now, out);
            self.start_watch(now, WORRIED_WATCH, SESSION_FAILS_AFTER - 1);
            self.watch.as_mut().expect("just started").sent = u64::MAX;
        }
    }

    pub(super) fn send_pings(&mut self, now: Instant, out: &mut Output) {
        let Some((_, path)) = self.sending() else { return };
        for (token, _) in self.pings.clone() {
            let purpose = Purpose::Ping(token);
            if !self.probes.values().any(|probe| !probe.lost && probe.purpose == purpose) {
                self.probe(path, purpose, now, out);
            }
        }
    }

    pub(super) fn probe(&mut self, path: Path, purpose: Purpose, now: Instant, out: &mut Output) {
        let Some(session) = self.current.as_ref().map(|e| Arc::clone(&e.session)) else { return };
        let number = out.rng.next_u64();
        let to = path.endpoint(self.paths.ports(), 0);
        let mut message = Message::Probe(number).encode();
        if let Purpose::Size(size) = purpose {
            // As long as the datagram of such a packet.
            message.resize(META + usize::from(size), 0);
        }
        self.probes.insert(number, Probe { path, sent: now, purpose, lost: false });
        self.send_bytes(&session, &message, to, out);
    }

    pub(super) fn expire_probes(&mut self, now: Instant, out: &mut Output) {
        self.probes.retain(|_, probe| !probe.lost || now < probe.sent + LATE);
        let due = |probe: &&mut Probe| !probe.lost && probe.sent + PROBE_TIMEOUT <= now;
        let lose = |probe: &mut Probe| {
            probe.lost = true;
            (probe.path, probe.purpose)
        };
        let lost: Vec<(Path, Purpose)> = self.probes.values_mut().filter(due).map(lose).collect();
        for (path, purpose) in lost {
            match purpose {
                Purpose::Size(size) => self.size_probed(path, size, false, now, out),
                Purpose::Search | Purpose::Watch | Purpose::Move | Purpose::Ping(_) => self.paths.lost(path),
            }
            if purpose == Purpose::Watch
                && self.paths.chosen() == Some(path)
                && let Some(watch) = &mut self.watch
            {
                watch.unanswered += 1;
                watch.next = watch.next.min(now + WORRIED_WATCH);
            }
        }
        let late: Vec<u64> =
            self.pings.iter().filter(|(_, at)| *at <= now).map(|(token, _)| *token).collect();
        self.pings.retain(|(_, at)| *at > now);
        out.pongs.extend(late.into_iter().map(|token| (token, Err(PingError::NoAnswer))));
        self.send_pings(now, out);
    }

    /// One round of probes to every candidate.
    pub(super) fn search_path(&mut self, now: Instant, out: &mut Output) {
        let Some((_, left)) = self.search else { return };
        if left == 0 {
            self.search = None;
            if self.paths.chosen().is_none() {
                self.forget_current("no address of the peer answers", out);
                self.back_off(now, out);
            }
            return;
        }
        self.search = Some((now + SEARCH, left - 1));
        // A stream has to be opened first: not where the first round was enough.
        let first = left == SEARCH_ROUNDS;
        for path in self.paths.all().into_iter().filter(|path| !first || !path.is_stream()) {
            self.probe(path, Purpose::Search, now, out);
        }
    }

    pub(super) fn start_watch(&mut self, now: Instant, interval: Duration, silent: u8) {
        if let Some(current) = &self.current {
            let (sent, received) = (current.session.sent(), current.session.received());
            self.watch = Some(Watch { next: now + interval, sent, received, silent, unanswered: 0 });
        }
    }

    /// Looks whether the session in use still is one. Gives true if it seems dead.
    pub(super) fn watch_session(&mut self, now: Instant, out: &mut Output) -> bool {
        let (Some(current), Some(watch)) = (&self.current, &mut self.watch) else { return false };
        if watch.next > now {
            return false;
        }
        let (sent, received) = (current.session.sent(), current.session.received());
        let idle = sent == watch.sent && watch.silent == 0 && watch.unanswered == 0;
        let heard = received != watch.received;
        (watch.sent, watch.received) = (sent, received);
        if idle {
            self.watch = None;
            current.session.ask_for_attention();
            return false;
        }
        if heard {
            watch.silent = 0;
            watch.next = now + WATCH;
        } else {
            watch.silent += 1;
            watch.next = now + WORRIED_WATCH;
        }
        let silent = watch.silent;
        let failing = silent.max(watch.unanswered) >= PATH_FAILS_AFTER;
        let mut changed = false;
        if failing {
            watch.unanswered = 0;
            changed = self.paths.failed();
        }
        if changed {
            out.table_changed = true;
            self.search_mtu(now, out);
        }
        let chosen = self.paths.chosen();
        // On a stream: whether something else passes meanwhile.
        let everywhere = failing || chosen.is_some_and(|path| path.is_stream());
        for path in self.paths.all().into_iter().filter(|path| everywhere || chosen == Some(*path)) {
            // The way that has just failed is not counted on again at once, or nothing would ever be idle.
            let watched = chosen == Some(path) && (changed || !failing);
            self.probe(path, if watched { Purpose::Watch } else { Purpose::Search }, now, out);
        }
        if silent < SESSION_FAILS_AFTER {
            return false;
        }
        // Nothing is left to try but a new session. It is asked for once; attention brings us back here.
        self.watch = None;
        if let Some(current) = &self.current {
            current.session.ask_for_attention();
        }
        true
    }
}
