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

mod attempt;
mod mtu;
mod reach;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use rand::rngs::StdRng;

pub use self::reach::PingError;
use self::{
    attempt::{Attempt, BACKOFF, Carrier},
    mtu::PathMtu,
    reach::{PROBE_TIMEOUT, Probe, Purpose, SEARCH_ROUNDS, WATCH, Watch},
};
use super::{
    Counters, DropReason,
    handshake::Offer,
    message::Message,
    path::{Endpoint, Path, Paths},
    session::Session,
    table::Traffic,
    wire::{CONTROL_QUEUE, Kind},
};
use crate::identity::NodeId;

/// The end that did not begin the session waits longer by this part of [`Output::rekey_after`], so that usually
/// one end alone rekeys.
const RESPONDER_SLACK: u32 = 8;
/// A session without a successor is forgotten after this.
const SESSION_LIFE: Duration = Duration::from_secs(3600);
/// A replaced session still opens what was under way.
const KEEP_PREVIOUS: Duration = Duration::from_secs(60);
/// How long an answered handshake waits for its first datagram.
const KEEP_NEXT: Duration = Duration::from_secs(10);
/// Packets that wait for a session.
const WAITING: usize = 16;

/// What a peer wants done; the composite passes it on.
pub(super) struct Output {
    pub(super) transmits: VecDeque<(Endpoint, Vec<u8>)>,
    pub(super) pongs: VecDeque<(u64, Result<Duration, PingError>)>,
    pub(super) news: VecDeque<News>,
    pub(super) table_changed: bool,
    pub(super) counters: Arc<Counters>,
    /// From the tunnel's seed: ephemeral keys, session ids, and the numbers of probes. Who could guess those would
    /// answer a probe that went elsewhere, and have our packets sent there.
    pub(super) rng: StdRng,
    /// Overlay addresses: never the way to a peer, or the tunnel would run through itself.
    pub(super) overlay: BTreeSet<IpAddr>,
    /// Whom the mesh has a connection with, which can carry datagrams by stream. It may be there before a route is.
    pub(super) neighbours: BTreeSet<NodeId>,
    /// The interface's: no inner packet is longer.
    pub(super) mtu: u16,
    /// A session this old gets a successor when something is sent.
    pub(super) rekey_after: Duration,
}

impl Output {
    pub(super) fn new(counters: Arc<Counters>, rng: StdRng, mtu: u16, rekey_after: Duration) -> Self {
        Self {
            transmits: VecDeque::new(),
            pongs: VecDeque::new(),
            news: VecDeque::new(),
            table_changed: false,
            counters,
            rng,
            overlay: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            mtu,
            rekey_after,
        }
    }

    /// Whether datagrams to `end` would run through the tunnel itself.
    fn is_inside(&self, end: Endpoint) -> bool {
        matches!(end, Endpoint::Udp(address) if self.overlay.contains(&address.ip()))
    }
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

/// A handshake that came in a datagram.
struct Answered {
    request: Vec<u8>,
    answer: Vec<u8>,
    at: Instant,
}

struct Established {
    session: Arc<Session>,
    since: Instant,
    /// When the session is due for a successor.
    due: Instant,
    /// Whether its age has asked for attention.
    asked: bool,
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
    answered: Option<Answered>,
    /// When the next round of probes goes out, and how many rounds are left.
    search: Option<(Instant, u8)>,
    watch: Option<Watch>,
    probes: BTreeMap<u64, Probe>,
    mtu: PathMtu,
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
            mtu: PathMtu::UNKNOWN,
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

    /// Bytes of the longest inner packet that the way taken carries.
    pub(super) fn path_mtu(&self) -> u16 {
        self.mtu.size
    }

    pub(super) fn last_handshake(&self) -> Option<Instant> {
        self.last_handshake
    }

    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        self.current.as_ref().map(|e| &e.session)
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

    /// The first datagram of a session came, from `from` if known.
    pub(super) fn handle_confirmed(&mut self, from: Option<Endpoint>, now: Instant, out: &mut Output) {
        let Some((session, _)) = self.next.take_if(|(session, _)| session.received() > 0) else { return };
        if let Some(from) = from.filter(|from| !out.is_inside(*from)) {
            let path = Path::of(self.paths.ports(), from);
            self.paths.add(path);
            if self.paths.chosen().is_none() && self.paths.take(path) {
                out.news.push_back(News::Connected(self.id, path));
            }
        }
        self.establish(session, now, out);
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
        let current = self
            .current
            .as_ref()
            .map(|e| (if e.asked { e.since + SESSION_LIFE } else { e.due }, "session age"));
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
                .filter(|probe| !probe.lost)
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

    fn tell_paths(&mut self, offer: &Offer, out: &Output) {
        let told = offer.addresses().iter().copied();
        self.paths.update(offer.ports(), told.filter(|address| !out.overlay.contains(address)));
        self.try_candidates(out);
    }

    /// The ways that the control plane knows are tried like those that the peer told.
    pub(super) fn try_candidates(&mut self, out: &Output) {
        if !self.paths.ports().is_empty() {
            let known = self.candidates.iter().filter(|address| !out.overlay.contains(address));
            known.for_each(|address| self.paths.add(Path::Direct(*address)));
            if out.neighbours.contains(&self.id) {
                self.paths.add(Path::Stream(self.id));
            }
        }
    }

    /// The mesh has no connection with the peer any more.
    pub(super) fn lose_stream(&mut self, now: Instant, out: &mut Output) {
        if self.paths.remove_stream() {
            out.table_changed = true;
            self.search = Some((now, SEARCH_ROUNDS));
        }
    }

    /// `session` becomes the one that is sent with.
    fn establish(&mut self, session: Arc<Session>, now: Instant, out: &mut Output) {
        tracing::debug!(peer = %self.id.short(), initiator = session.is_initiator(), aead = ?session.aead(), "data session");
        let slack = if session.is_initiator() { Duration::ZERO } else { out.rekey_after / RESPONDER_SLACK };
        let due = now + out.rekey_after + slack;
        let old = self.current.replace(Established { session, since: now, due, asked: false });
        self.previous = old.map(|old| (old.session, now + KEEP_PREVIOUS));
        self.backoff = BACKOFF.0;
        self.not_before = None;
        self.last_handshake = Some(now);
        self.probes.retain(|_, probe| matches!(probe.purpose, Purpose::Ping(_)));
        self.mtu.forget_probes();
        self.start_watch(now, WATCH, 0);
        out.table_changed = true;
        match self.paths.chosen() {
            // Also tells the responder that we have the session; the watch repeats it if it gets lost.
            Some(path) => {
                self.probe(path, Purpose::Watch, now, out);
                self.search_mtu(now, out);
            }
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
        self.paths.forget_choice();
        self.mtu.forget_probes();
        out.table_changed = true;
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

    /// Seals and sends one control message.
    pub(super) fn send(&self, session: &Session, message: &Message, to: Endpoint, out: &mut Output) {
        self.send_bytes(session, &message.encode(), to, out);
    }

    fn send_bytes(&self, session: &Session, message: &[u8], to: Endpoint, out: &mut Output) {
        match session.seal(Kind::Control, CONTROL_QUEUE, message) {
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
            if !current.asked && current.due <= now {
                current.asked = true;
                current.session.ask_for_attention();
            }
            if current.since + SESSION_LIFE <= now {
                self.forget_current("the session is too old", out);
            }
        }
    }
}
