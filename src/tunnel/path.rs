//! Where a peer may be reached, how well, and which way is taken.
//!
//! Candidates are probed at the same time; the best by round trip and loss is chosen, with hysteresis, so that two
//! equal ways do not alternate.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::wire::MAX_QUEUES;
use crate::identity::NodeId;

/// More candidates than this per peer are not kept: the oldest learned one goes.
const MAX_CANDIDATES: usize = 24;

/// Where a datagram goes to, or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// An address of a socket.
    Udp(SocketAddr),
    /// This neighbour's connection of the mesh, in which a stream carries datagrams.
    Stream(NodeId),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Stream(_) => f.write_str("a stream of the mesh"),
        }
    }
}

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// An address of the peer itself: each of its queues has its own port there.
    Direct(IpAddr),
    /// What an authentic datagram came from (a NAT in between): one port for all queues.
    Learned(SocketAddr),
    /// A stream of the mesh, where nothing else passes.
    Stream(NodeId),
}

impl Path {
    /// The path that a datagram from `from` shows.
    pub(super) fn of(ports: &[u16], from: Endpoint) -> Self {
        match from {
            Endpoint::Udp(from) if ports.contains(&from.port()) => Self::Direct(from.ip()),
            Endpoint::Udp(from) => Self::Learned(from),
            Endpoint::Stream(peer) => Self::Stream(peer),
        }
    }

    /// Whether it is only for where nothing else passes.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Where our queue `queue` sends to.
    pub fn endpoint(&self, ports: &[u16], queue: usize) -> Endpoint {
        match self {
            Self::Direct(ip) => {
                let port = ports.get(queue % ports.len().max(1)).copied().unwrap_or(0);
                Endpoint::Udp(SocketAddr::new(*ip, port))
            }
            Self::Learned(address) => Endpoint::Udp(*address),
            Self::Stream(peer) => Endpoint::Stream(*peer),
        }
    }

    pub(super) fn endpoints(&self, ports: &[u16]) -> [Endpoint; MAX_QUEUES] {
        std::array::from_fn(|queue| self.endpoint(ports, queue))
    }

    /// Whether datagrams from `from` came this way.
    pub(super) fn covers(&self, ports: &[u16], from: Endpoint) -> bool {
        Self::of(ports, from) == *self
    }
}

/// A way and what is known of it.
#[derive(Debug, Clone)]
struct Candidate {
    path: Path,
    /// Smoothed; none: never answered, or stopped answering.
    round_trip: Option<Duration>,
    /// Share of probes lost, smoothed, in 1/1024.
    loss: u32,
}

impl Candidate {
    /// The figure to compare by, lower is better: the round trip, and five times as much if every probe is lost. A
    /// stream is worse than anything else.
    fn cost(&self) -> Option<(bool, Duration)> {
        self.round_trip.map(|rtt| (self.path.is_stream(), rtt + rtt * self.loss / 256))
    }
}

/// All ways to one peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    ports: Vec<u16>,
    candidates: Vec<Candidate>,
    chosen: Option<Path>,
}

impl Paths {
    /// The peer's UDP ports, as it told in the last handshake.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The way taken; none until one has answered.
    pub(super) fn chosen(&self) -> Option<Path> {
        self.chosen
    }

    /// Round trip and loss (0 to 1) of the way taken.
    pub(super) fn quality(&self) -> Option<(Option<Duration>, f32)> {
        let candidate = self.find(self.chosen?)?;
        Some((candidate.round_trip, candidate.loss as f32 / 1024.0))
    }

    /// Every candidate.
    pub(super) fn all(&self) -> Vec<Path> {
        self.candidates.iter().map(|c| c.path).collect()
    }

    /// The ways that the peer is known to use: those that answered, and the one taken.
    pub(super) fn known(&self) -> Vec<Path> {
        let known = |c: &&Candidate| c.round_trip.is_some() || Some(c.path) == self.chosen;
        self.candidates.iter().filter(known).map(|c| c.path).collect()
    }

    /// Takes what a handshake told. Ways that are not in it any more are forgotten if the ports changed.
    pub(super) fn update(&mut self, ports: &[u16], addresses: impl IntoIterator<Item = IpAddr>) {
        if self.ports != ports {
            *self = Self { ports: ports.to_vec(), ..Self::default() };
        }
        for address in addresses {
            self.add(Path::Direct(address));
        }
    }

    /// Adds a way unless it is known.
    pub(super) fn add(&mut self, path: Path) {
        if self.find(path).is_some() {
            return;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let chosen = self.chosen;
            if let Some(oldest) = self.candidates.iter().position(|c| Some(c.path) != chosen) {
                self.candidates.remove(oldest);
            }
        }
        self.candidates.push(Candidate { path, round_trip: None, loss: 0 });
    }

    /// The mesh has no connection with the peer any more. Gives whether the way taken changed.
    pub(super) fn remove_stream(&mut self) -> bool {
        self.candidates.retain(|candidate| !candidate.path.is_stream());
        if !self.chosen.is_some_and(|path| path.is_stream()) {
            return false;
        }
        self.chosen = None;
        self.choose();
        true
    }

    /// A probe was answered. Gives whether the way taken changed.
    pub(super) fn answered(&mut self, path: Path, round_trip: Duration) -> bool {
        let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) else { return false };
        candidate.round_trip =
            Some(candidate.round_trip.map_or(round_trip, |smooth| smooth - smooth / 8 + round_trip / 8));
        candidate.loss -= candidate.loss / 8;
        self.choose()
    }

    /// A probe was not answered in time.
    pub(super) fn lost(&mut self, path: Path) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) {
            candidate.loss += (1024 - candidate.loss) / 8;
        }
    }

    /// The way taken is dead: it has to answer again before it counts. Gives whether another was chosen.
    pub(super) fn failed(&mut self) -> bool {
        let chosen = self.chosen;
        if let Some(candidate) = self.candidates.iter_mut().find(|c| Some(c.path) == chosen) {
            candidate.round_trip = None;
        }
        self.choose()
    }

    /// The peer may be anywhere by now: every way has to answer again before it counts.
    pub(super) fn forget_choice(&mut self) {
        self.chosen = None;
        for candidate in &mut self.candidates {
            candidate.round_trip = None;
        }
    }

    /// Takes `path`, whatever the others are like. Gives whether that is a change.
    pub(super) fn take(&mut self, path: Path) -> bool {
        self.add(path);
        self.chosen.replace(path) != Some(path)
    }

    fn find(&self, path: Path) -> Option<&Candidate> {
        self.candidates.iter().find(|c| c.path == path)
    }

    /// Chooses the best; the one in use stays unless another is clearly better (a fifth and a millisecond).
    fn choose(&mut self) -> bool {
        let Some(best) = self.candidates.iter().filter(|c| c.cost().is_some()).min_by_key(|c| c.cost())
        else {
            return false;
        };
        let current = self.chosen.and_then(|path| self.find(path)).and_then(Candidate::cost);
        let better = match (current, best.cost()) {
            (Some((true, _)), Some((false, _))) => true,
            (Some((_, current)), Some((_, cost))) => {
                cost + (current / 5).max(Duration::from_millis(1)) < current
            }
            (None, _) => true,
            (Some(_), None) => false,
        };
        let best = best.path;
        better && self.chosen.replace(best) != Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn two() -> (Paths, Path, Path) {
        let mut paths = Paths::default();
        paths.update(&[51900, 51901], [ip("192.168.0.2"), ip("172.16.0.2")]);
        (paths, Path::Direct(ip("192.168.0.2")), Path::Direct(ip("172.16.0.2")))
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_to_answer_is_taken_and_a_little_better_one_does_not_replace_it() {
        let (mut paths, a, b) = two();
        assert!(paths.answered(a, 10 * MS));
        assert!(!paths.answered(b, 9 * MS));
        assert_eq!(paths.chosen(), Some(a));
    }

    #[test]
    fn a_clearly_better_way_is_taken() {
        let (mut paths, a, b) = two();
        paths.answered(a, 10 * MS);
        assert!(paths.answered(b, 2 * MS));
        assert_eq!(paths.chosen(), Some(b));
    }

    #[test]
    fn when_the_way_taken_dies_the_other_one_is_taken() {
        let (mut paths, a, b) = two();
        paths.answered(a, 2 * MS);
        paths.answered(b, 3 * MS);
        assert!(paths.failed());
        assert_eq!(paths.chosen(), Some(b));
    }

    #[test]
    fn loss_makes_a_way_worse() {
        let (mut paths, a, b) = two();
        paths.answered(a, 10 * MS);
        paths.answered(b, 12 * MS);
        for _ in 0..8 {
            paths.lost(a);
        }
        assert!(paths.answered(b, 12 * MS));
        assert_eq!(paths.chosen(), Some(b));
    }

    #[test]
    fn each_queue_has_its_port_unless_a_nat_hides_them() {
        let ports = [51900, 51901];
        let udp = |text: &str| Endpoint::Udp(text.parse().unwrap());
        let direct = Path::of(&ports, udp("192.168.0.2:51901"));
        assert_eq!(direct, Path::Direct(ip("192.168.0.2")));
        assert_eq!(direct.endpoint(&ports, 3), udp("192.168.0.2:51901"));
        let learned = Path::of(&ports, udp("192.0.2.1:4711"));
        assert_eq!(learned.endpoint(&ports, 3), udp("192.0.2.1:4711"));
        assert!(!direct.covers(&ports, udp("192.168.0.2:4711")));
    }

    #[test]
    fn a_stream_is_taken_only_while_nothing_else_answers() {
        let (mut paths, a, _) = two();
        let stream = Path::Stream(NodeId::from_bytes([1; 32]));
        paths.add(stream);
        assert!(paths.answered(stream, MS));
        assert!(paths.answered(a, 100 * MS), "however slow it is");
        assert_eq!(paths.chosen(), Some(a));
        assert!(!paths.answered(stream, MS));
        assert!(paths.failed());
        assert_eq!(paths.chosen(), Some(stream));
        assert!(paths.remove_stream());
        assert_eq!(paths.chosen(), None);
    }

    #[test]
    fn candidates_are_bounded() {
        let (mut paths, a, _) = two();
        paths.take(a);
        for port in 1..100 {
            paths.add(Path::Learned(SocketAddr::new(ip("192.0.2.1"), port)));
        }
        assert_eq!(paths.all().len(), MAX_CANDIDATES);
        assert!(paths.all().contains(&a));
    }
}
