//! One peer: its sessions from handshake to oblivion, its paths, and the packets that wait.
//!
//! ```text
//!            packet, no session                     answer                     a path answers a probe
//! (nothing) --------------------> Attempt by stream -------> current, searching ----------------------> current
//!     ^                             | refused, no answer                 | no path answers                |
//!     +-----------------------------+------------------------------------+        120 s or 2^26 datagrams |
//!                                                                                  Attempt by tunnel <----+
//!  the responder's side:  request -> next -- first authentic datagram --> current -- replaced --> previous (60 s)
//! ```
//!
//! Idle is silent: once nothing was sent for a while the session asks for *attention*, that is for a word from the
//! sending thread at the next packet, and no timer runs until then but for those that forget keys.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    Counters, DropReason,
    handshake::{HandshakeError, Initiator, Offer},
    message::Message,
    path::{Path, Paths},
    session::{REKEY_AFTER_DATAGRAMS, Session},
    table::Traffic,
    wire::{CONTROL_QUEUE, Kind},
};
use crate::identity::NodeId;

/// A session this old gets a successor when something is sent.
pub(super) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The end that did not begin the session waits so much longer, so that usually one end alone rekeys.
const RESPONDER_SLACK: Duration = Duration::from_secs(15);
/// A session without a successor is forgotten after this.
const SESSION_LIFE: Duration = Duration::from_secs(3600);
/// A replaced session still opens what was under way.
const KEEP_PREVIOUS: Duration = Duration::from_secs(60);
/// How long an answered handshake waits for its first datagram.
const KEEP_NEXT: Duration = Duration::from_secs(10);
/// How long a handshake by stream may take.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two sendings of a handshake in a sealed datagram, and how many.
const RESEND: Duration = Duration::from_secs(1);
const RESENDS: u8 = 4;
/// After a failed handshake the next waits, twice as long each time, between these.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A probe without answer after this is lost.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between the rounds of probes that look for a path, and how many.
const SEARCH: Duration = Duration::from_millis(400);
const SEARCH_ROUNDS: u8 = 8;
/// How often a session in use is looked at.
const WATCH: Duration = Duration::from_secs(5);
/// How often when something was sent and nothing came back, and after how many such looks what happens.
const WORRIED_WATCH: Duration = Duration::from_millis(700);
const PATH_FAILS_AFTER: u8 = 2;
const SESSION_FAILS_AFTER: u8 = 4;
/// Packets that wait for a session.
const WAITING: usize = 16;
/// How long a ping may take, handshake included.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a peer wants done; the composite passes it on.
#[derive(Default)]
pub(super) struct Output {
    pub(super) transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) pongs: VecDeque<(u64, Result<Duration, PingError>)>,
    pub(super) news: VecDeque<News>,
    pub(super) table_changed: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) next_probe: u64,
}

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

/// What a peer tells the outside.
pub(super) enum News {
    /// A handshake shall be carried by stream.
    Wanted(NodeId, u64, Vec<u8>),
    /// A path answered: packets flow.
    Connected(NodeId, Path),
    /// The session is gone and nothing flows.
    Lost(NodeId, &'static str),
}

struct Attempt {
    ticket: u64,
    initiator: Initiator,
    carrier: Carrier,
}

enum Carrier {
    /// The control plane carries it.
    Stream { deadline: Instant },
    /// Sealed datagrams of the session to be replaced carry it.
    Tunnel { message: Vec<u8>, resend: Instant, left: u8 },
}

struct Established {
    session: Arc<Session>,
    since: Instant,
    /// When the session's age asks for attention; none: it has.
    rekey: Option<Instant>,
}

struct Probe {
    path: Path,
    sent: Instant,
    /// Take the path if it answers, whatever the others are like: the peer itself moved there.
    take: bool,
    ping: Option<u64>,
}

/// A look at a session in use.
struct Watch {
    next: Instant,
    sent: u64,
    received: u64,
    silent: u8,
}

/// One peer.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) networks: Vec<IpNet>,
    pub(super) candidates: Vec<IpAddr>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) paths: Paths,
    attempt: Option<Attempt>,
    current: Option<Established>,
    next: Option<(Arc<Session>, Instant)>,
    previous: Option<(Arc<Session>, Instant)>,
    /// The last handshake that came in a datagram and its answer, for repetitions.
    answered: Option<(Vec<u8>, Vec<u8>)>,
    /// When the next round of probes goes out, and how many rounds are left.
    search: Option<(Instant, u8)>,
    watch: Option<Watch>,
    probes: BTreeMap<u64, Probe>,
    pings: Vec<(u64, Instant)>,
    waiting: VecDeque<Vec<u8>>,
    backoff: Duration,
    not_before: Option<Instant>,
    last_handshake: Option<Instant>,
}

impl Peer {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            addresses: Vec::new(),
            networks: Vec::new(),
            candidates: Vec::new(),
            traffic: Arc::default(),
            paths: Paths::default(),
            attempt: None,
            current: None,
            next: None,
            previous: None,
            answered: None,
            search: None,
            watch: None,
            probes: BTreeMap::new(),
            pings: Vec::new(),
            waiting: VecDeque::new(),
            backoff: BACKOFF.0,
            not_before: None,
            last_handshake: None,
        }
    }

    /// Every session that can still open datagrams.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        let current = self.current.iter().map(|e| &e.session);
        current.chain(self.next.iter().map(|(s, _)| s)).chain(self.previous.iter().map(|(s, _)| s))
    }

    /// The session to send with and the way to take, once there are both.
    pub(super) fn sending(&self) -> Option<(&Arc<Session>, Path)> {
        Some((&self.current.as_ref()?.session, self.paths.chosen()?))
    }

    pub(super) fn last_handshake(&self) -> Option<Instant> {
        self.last_handshake
    }

    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        self.current.as_ref().map(|e| &e.session)
    }

    pub(super) fn is_attempting(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether a new handshake may begin.
    pub(super) fn may_attempt(&self, now: Instant) -> bool {
        self.attempt.is_none() && self.next.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether a new handshake is called for: nothing to send with, and something to send.
    pub(super) fn needs_session(&self) -> bool {
        self.current.is_none() && !(self.waiting.is_empty() && self.pings.is_empty())
    }

    /// Whether the current session is due for a successor.
    pub(super) fn needs_rekey(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|e| {
            now >= e.since + rekey_age(&e.session) || e.session.sent() >= REKEY_AFTER_DATAGRAMS
        })
    }

    /// A packet that found no session, or no path: it waits, the oldest goes when too many do.
    pub(super) fn handle_packet(&mut self, plaintext: Vec<u8>, now: Instant, out: &mut Output) {
        if let Some((session, path)) = self.sending() {
            let (session, path) = (Arc::clone(session), path);
            self.seal_to(&session, Kind::Data, &plaintext, path, out);
            return;
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            out.counters.add(DropReason::NoSession);
        }
        self.waiting.push_back(plaintext);
        if self.current.is_some() && self.search.is_none() {
            self.search = Some((now, SEARCH_ROUNDS));
        }
    }

    pub(super) fn handle_ping(&mut self, token: u64, now: Instant, out: &mut Output) {
        self.pings.push((token, now + PING_TIMEOUT));
        self.send_pings(now, out);
    }

    /// Begins to carry `initiator`'s message: in the tunnel if there is one, else by stream.
    pub(super) fn begin(
        &mut self,
        ticket: u64,
        initiator: Initiator,
        message: Vec<u8>,
        by_stream: bool,
        now: Instant,
        out: &mut Output,
    ) {
        let carrier = match self.sending() {
            Some(_) if !by_stream => Carrier::Tunnel { message, resend: now, left: RESENDS },
            Some(_) | None => {
                out.news.push_back(News::Wanted(self.id, ticket, message));
                Carrier::Stream { deadline: now + STREAM_TIMEOUT }
            }
        };
        self.attempt = Some(Attempt { ticket, initiator, carrier });
        self.resend(now, out);
    }

    /// The other end's handshake stands, not attempt `ticket` of ours. If the other's gets lost, we try again.
    pub(super) fn give_way(&mut self, ticket: Option<u64>, now: Instant, out: &mut Output) {
        if self.take_attempt(ticket).is_some() && self.current.is_none() && self.next.is_none() {
            self.not_before = Some(now + BACKOFF.0);
            out.table_changed = true;
        }
    }

    /// The peer does not want attempt `ticket`.
    pub(super) fn refused(&mut self, ticket: Option<u64>, now: Instant, out: &mut Output) {
        if self.take_attempt(ticket).is_some() {
            self.back_off(now, out);
        }
    }

    /// The peer's answer to attempt `ticket` (none: the one in the tunnel) came.
    pub(super) fn handle_answer(
        &mut self,
        ticket: Option<u64>,
        answer: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Result<(), HandshakeError> {
        let Some(attempt) = self.take_attempt(ticket) else { return Ok(()) };
        let (session, offer) = attempt.initiator.finish(answer).inspect_err(|_| self.back_off(now, out))?;
        self.tell_paths(&offer);
        self.establish(Arc::new(session), now, out);
        Ok(())
    }

    fn take_attempt(&mut self, ticket: Option<u64>) -> Option<Attempt> {
        self.attempt.take_if(|attempt| ticket.is_none_or(|ticket| ticket == attempt.ticket))
    }

    /// Attempt `ticket` failed on its way.
    pub(super) fn handle_failure(&mut self, ticket: u64, now: Instant, out: &mut Output) {
        self.refused(Some(ticket), now, out);
    }

    /// We answered the peer's handshake: the session waits for its first datagram.
    pub(super) fn offer(&mut self, session: Session, offer: &Offer, now: Instant, out: &mut Output) {
        self.attempt = None;
        self.tell_paths(offer);
        self.next = Some((Arc::new(session), now + KEEP_NEXT));
        out.table_changed = true;
    }

    pub(super) fn answer_again(&self, request: &[u8]) -> Option<Vec<u8>> {
        self.answered.as_ref().filter(|(known, _)| known == request).map(|(_, answer)| answer.clone())
    }

    pub(super) fn remember_answer(&mut self, request: &[u8], answer: &[u8]) {
        self.answered = Some((request.to_vec(), answer.to_vec()));
    }

    /// The first datagram of a session came, from `from` if known.
    pub(super) fn handle_confirmed(&mut self, from: Option<SocketAddr>, now: Instant, out: &mut Output) {
        let Some((session, _)) = self.next.take_if(|(session, _)| session.received() > 0) else { return };
        if let Some(from) = from {
            let path = Path::of(self.paths.ports(), from);
            self.paths.add(path);
            if self.paths.chosen().is_none() && self.paths.take(path) {
                out.news.push_back(News::Connected(self.id, path));
            }
        }
        self.establish(session, now, out);
    }

    /// An authentic datagram came from an address that the peer was not known at.
    pub(super) fn handle_moved(
        &mut self,
        session: &Arc<Session>,
        from: SocketAddr,
        now: Instant,
        out: &mut Output,
    ) {
        session.settle();
        let path = Path::of(self.paths.ports(), from);
        self.paths.add(path);
        if self.is_current(session) && !self.probes.values().any(|probe| probe.take && probe.path == path) {
            self.probe(path, true, None, now, out);
        }
    }

    pub(super) fn handle_probe(
        &mut self,
        session: &Arc<Session>,
        number: u64,
        from: SocketAddr,
        out: &mut Output,
    ) {
        self.send(session, &Message::ProbeAck(number), from, out);
    }

    pub(super) fn handle_probe_ack(&mut self, number: u64, now: Instant, out: &mut Output) {
        let Some(probe) = self.probes.remove(&number) else { return };
        let round_trip = now.saturating_duration_since(probe.sent);
        let had_path = self.paths.chosen().is_some();
        let mut changed = self.paths.answered(probe.path, round_trip);
        if probe.take {
            changed |= self.paths.take(probe.path);
        }
        if let Some(token) = probe.ping {
            self.pings.retain(|(known, _)| *known != token);
            out.pongs.push_back((token, Ok(round_trip)));
        }
        if let Some(watch) = &mut self.watch {
            watch.silent = 0;
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
        }
        self.flush(now, out);
    }

    /// The peer said goodbye to `session`.
    pub(super) fn handle_close(&mut self, session: &Arc<Session>, out: &mut Output) {
        if self.is_current(session) {
            self.forget_current("the peer closed the session", out);
        }
        self.next.take_if(|(next, _)| Arc::ptr_eq(next, session));
        self.previous.take_if(|(previous, _)| Arc::ptr_eq(previous, session));
        out.table_changed = true;
    }

    /// Says goodbye.
    pub(super) fn close(&mut self, out: &mut Output) {
        if let Some((session, path)) = self.sending() {
            let session = Arc::clone(session);
            let to = path.endpoint(self.paths.ports(), 0);
            self.send(&session, &Message::Close, to, out);
        }
    }

    /// The next packet of a session that asked for attention is being sent.
    pub(super) fn handle_attention(&mut self, now: Instant) {
        if self.watch.is_none() {
            self.start_watch(now, WATCH, 0);
        }
    }

    /// There is reason to doubt that the peer still has our session: it has to answer at once, or a handshake follows.
    pub(super) fn doubt(&mut self, now: Instant, out: &mut Output) {
        if let Some((_, path)) = self.sending() {
            self.probe(path, false, None, now, out);
            self.start_watch(now, WORRIED_WATCH, SESSION_FAILS_AFTER - 1);
            self.watch.as_mut().expect("just started").sent = u64::MAX;
        }
    }

    /// Whatever is due. Gives true if a handshake by stream is called for.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Output) -> bool {
        self.expire_sessions(now, out);
        self.expire_probes(now, out);
        self.resend(now, out);
        if self.search.is_some_and(|(at, _)| at <= now) {
            self.search_path(now, out);
        }
        self.watch_session(now, out)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let attempt = self.attempt.as_ref().map(|a| match a.carrier {
            Carrier::Stream { deadline } => (deadline, "handshake timeout"),
            Carrier::Tunnel { resend, .. } => (resend, "handshake resend"),
        });
        let retry = if self.needs_session() && self.attempt.is_none() && self.next.is_none() {
            self.not_before
        } else {
            None
        };
        let current =
            self.current.as_ref().map(|e| (e.rekey.unwrap_or(e.since + SESSION_LIFE), "session age"));
        [
            attempt,
            retry.map(|at| (at, "handshake retry")),
            current,
            self.next.as_ref().map(|(_, at)| (*at, "handshake unconfirmed")),
            self.previous.as_ref().map(|(_, at)| (*at, "previous session")),
            self.search.map(|(at, _)| (at, "path search")),
            self.watch.as_ref().map(|watch| (watch.next, "session watch")),
            self.probes
                .values()
                .map(|probe| probe.sent + PROBE_TIMEOUT)
                .min()
                .map(|at| (at, "probe timeout")),
            self.pings.iter().map(|(_, at)| *at).min().map(|at| (at, "ping timeout")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    fn is_current(&self, session: &Arc<Session>) -> bool {
        self.current.as_ref().is_some_and(|e| Arc::ptr_eq(&e.session, session))
    }

    fn tell_paths(&mut self, offer: &Offer) {
        let ours = self.candidates.iter().copied();
        self.paths.update(offer.ports(), offer.addresses().iter().copied().chain(ours));
    }

    /// `session` becomes the one that is sent with.
    fn establish(&mut self, session: Arc<Session>, now: Instant, out: &mut Output) {
        tracing::debug!(peer = %self.id.short(), initiator = session.is_initiator(), aead = ?session.aead(), "data session");
        let rekey = Some(now + rekey_age(&session));
        let old = self.current.replace(Established { session, since: now, rekey });
        self.previous = old.map(|old| (old.session, now + KEEP_PREVIOUS));
        self.backoff = BACKOFF.0;
        self.not_before = None;
        self.last_handshake = Some(now);
        self.answered = None;
        self.probes.retain(|_, probe| probe.ping.is_some());
        self.start_watch(now, WATCH, 0);
        out.table_changed = true;
        match self.paths.chosen() {
            // Also tells the responder that we have the session.
            Some(path) => self.probe(path, false, None, now, out),
            None => {
                self.search = Some((now, SEARCH_ROUNDS));
                self.search_path(now, out);
            }
        }
        self.flush(now, out);
    }

    fn forget_current(&mut self, why: &'static str, out: &mut Output) {
        if self.current.take().is_some() {
            out.news.push_back(News::Lost(self.id, why));
        }
        self.watch = None;
        self.search = None;
        self.probes.clear();
        out.table_changed = true;
    }

    fn back_off(&mut self, now: Instant, out: &mut Output) {
        self.not_before = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        if self.current.is_none() {
            self.drop_waiting(out);
        }
    }

    fn drop_waiting(&mut self, out: &mut Output) {
        out.counters.add_many(DropReason::NoSession, self.waiting.len() as u64);
        self.waiting.clear();
    }

    /// Sends what waited, if it can be sent now.
    fn flush(&mut self, now: Instant, out: &mut Output) {
        let Some((session, path)) = self.sending() else { return };
        let session = Arc::clone(session);
        for plaintext in std::mem::take(&mut self.waiting) {
            self.seal_to(&session, Kind::Data, &plaintext, path, out);
        }
        self.send_pings(now, out);
    }

    fn send_pings(&mut self, now: Instant, out: &mut Output) {
        let Some((_, path)) = self.sending() else { return };
        for (token, _) in self.pings.clone() {
            if !self.probes.values().any(|probe| probe.ping == Some(token)) {
                self.probe(path, false, Some(token), now, out);
            }
        }
    }

    fn probe(&mut self, path: Path, take: bool, ping: Option<u64>, now: Instant, out: &mut Output) {
        let Some(session) = self.current.as_ref().map(|e| Arc::clone(&e.session)) else { return };
        out.next_probe += 1;
        self.probes.insert(out.next_probe, Probe { path, sent: now, take, ping });
        let to = path.endpoint(self.paths.ports(), 0);
        self.send(&session, &Message::Probe(out.next_probe), to, out);
    }

    /// Seals and sends one control message.
    pub(super) fn send(&self, session: &Session, message: &Message, to: SocketAddr, out: &mut Output) {
        match session.seal(Kind::Control, CONTROL_QUEUE, &message.encode()) {
            Ok(datagram) => out.transmits.push_back((to, datagram)),
            Err(_) => out.counters.add(DropReason::Exhausted),
        }
    }

    fn seal_to(&self, session: &Session, kind: Kind, plaintext: &[u8], path: Path, out: &mut Output) {
        match session.seal(kind, CONTROL_QUEUE, plaintext) {
            Ok(datagram) => {
                self.traffic.add_sent(1, plaintext.len().saturating_sub(super::wire::META) as u64);
                out.transmits.push_back((path.endpoint(self.paths.ports(), 0), datagram));
            }
            Err(_) => out.counters.add(DropReason::Exhausted),
        }
    }

    fn expire_sessions(&mut self, now: Instant, out: &mut Output) {
        if self.next.as_ref().is_some_and(|(session, _)| session.received() > 0) {
            self.handle_confirmed(None, now, out);
        }
        out.table_changed |= self.next.take_if(|(_, at)| *at <= now).is_some();
        out.table_changed |= self.previous.take_if(|(_, at)| *at <= now).is_some();
        if let Some(current) = &mut self.current {
            if current.rekey.is_some_and(|at| at <= now) {
                current.rekey = None;
                current.session.ask_for_attention();
            }
            if current.since + SESSION_LIFE <= now {
                self.forget_current("the session is too old", out);
            }
        }
    }

    fn expire_probes(&mut self, now: Instant, out: &mut Output) {
        let lost: Vec<u64> = self
            .probes
            .iter()
            .filter(|(_, p)| p.sent + PROBE_TIMEOUT <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            if let Some(probe) = self.probes.remove(&number) {
                self.paths.lost(probe.path);
            }
        }
        let late: Vec<u64> =
            self.pings.iter().filter(|(_, at)| *at <= now).map(|(token, _)| *token).collect();
        self.pings.retain(|(_, at)| *at > now);
        out.pongs.extend(late.into_iter().map(|token| (token, Err(PingError::NoAnswer))));
        self.send_pings(now, out);
    }

    fn resend(&mut self, now: Instant, out: &mut Output) {
        let Some(attempt) = &mut self.attempt else { return };
        let due = match &mut attempt.carrier {
            Carrier::Stream { deadline } => {
                if *deadline <= now {
                    let ticket = attempt.ticket;
                    self.handle_failure(ticket, now, out);
                }
                return;
            }
            Carrier::Tunnel { resend, .. } if *resend > now => return,
            Carrier::Tunnel { left: 0, message, .. } => {
                // The tunnel does not answer; the control plane may.
                out.news.push_back(News::Wanted(self.id, attempt.ticket, std::mem::take(message)));
                attempt.carrier = Carrier::Stream { deadline: now + STREAM_TIMEOUT };
                return;
            }
            Carrier::Tunnel { message, resend, left } => {
                *resend = now + RESEND;
                *left -= 1;
                Message::Rekey(message.clone())
            }
        };
        if let Some((session, path)) = self.sending() {
            self.send(&Arc::clone(session), &due, path.endpoint(self.paths.ports(), 0), out);
        }
    }

    /// One round of probes to every candidate.
    fn search_path(&mut self, now: Instant, out: &mut Output) {
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
        for path in self.paths.all() {
            self.probe(path, false, None, now, out);
        }
    }

    fn start_watch(&mut self, now: Instant, interval: Duration, silent: u8) {
        if let Some(current) = &self.current {
            let (sent, received) = (current.session.sent(), current.session.received());
            self.watch = Some(Watch { next: now + interval, sent, received, silent });
        }
    }

    /// Looks whether the session in use still is one. Gives true if it seems dead.
    fn watch_session(&mut self, now: Instant, out: &mut Output) -> bool {
        let (Some(current), Some(watch)) = (&self.current, &mut self.watch) else { return false };
        if watch.next > now {
            return false;
        }
        let (sent, received) = (current.session.sent(), current.session.received());
        let idle = sent == watch.sent && watch.silent == 0;
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
        if let Some(path) = self.paths.chosen() {
            self.probe(path, false, None, now, out);
        }
        if silent >= PATH_FAILS_AFTER && self.paths.all().len() > 1 {
            out.table_changed |= self.paths.failed();
            for path in self.paths.all() {
                self.probe(path, false, None, now, out);
            }
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

fn rekey_age(session: &Session) -> Duration {
    if session.is_initiator() { REKEY_AFTER } else { REKEY_AFTER + RESPONDER_SLACK }
}
