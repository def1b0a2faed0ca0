//! Finding members on the LAN by multicast DNS, without telling anybody else what is looked for.
//!
//! Questions go out from a port of our own to 224.0.0.251:5353 (RFC 6762 5.1 and 6.7: a one-shot query), so answers
//! come to that port alone and any other responder on the host is left in peace. Asked at once, after 250 ms, after
//! 1 s, then every five minutes (every 15 s while alone), and again when an address changes. IPv4 only: a LAN
//! without IPv4 needs static peers.

mod interfaces;
mod packet;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex},
    time::Duration,
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    counters::{self, Counters},
    link::Neighbours,
};
use crate::{identity::NodeId, token::Gate};

pub(super) use interfaces::Selection;
pub(super) use packet::Sighting;

use interfaces::Interface;
use packet::Packet;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// RFC 6762 11: what is not 255 may come from elsewhere.
const TTL: u32 = 255;
/// The pauses after the first questions.
const FIRST: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(750)];
/// How often is asked afterwards: of whoever has no neighbour, doubled by each, and the most. Few that were split from
/// others at their first boot find them within a minute; many cost a LAN next to nothing.
const ALONE: Duration = Duration::from_secs(15);
const SETTLED: Duration = Duration::from_secs(300);
/// Addresses come in twos and threes.
const CHANGE: Duration = Duration::from_millis(100);
/// Questions whose late answers still count.
const OPEN_QUESTIONS: usize = 4;
/// Answers per second and interface.
const ANSWERS: u32 = 20;

/// What the search needs.
pub(super) struct Lan {
    pub(super) me: NodeId,
    /// Questions go out by the name of the token in use; those by the others' names are answered too.
    pub(super) gate: watch::Receiver<Gate>,
    pub(super) listen_port: u16,
    pub(super) selection: Selection,
    pub(super) neighbours: Arc<Neighbours>,
    pub(super) found: mpsc::Sender<Sighting>,
    /// Told when an address of this host comes or goes.
    pub(super) changed: Arc<Notify>,
    pub(super) counters: Arc<Mutex<Counters>>,
}

impl Lan {
    /// Searches until nobody listens to what is found.
    pub(super) async fn run(self) {
        let lan = Arc::new(self);
        let mut interfaces = BTreeMap::new();
        let mut searches = JoinSet::new();
        loop {
            let now = lan.selection.interfaces();
            if now != interfaces {
                tracing::debug!(interfaces = ?now.keys(), "looking for members by multicast DNS");
                searches.abort_all();
                for (name, interface) in &now {
                    let (lan, name, interface) = (lan.clone(), name.clone(), interface.clone());
                    searches.spawn(async move {
                        loop {
                            let Err(error) = lan.search(&interface).await;
                            tracing::warn!(%name, %error, "cannot look for members by multicast DNS here");
                            sleep(SETTLED).await;
                        }
                    });
                }
                interfaces = now;
            }
            tokio::select! {
                () = lan.changed.notified() => sleep(CHANGE).await,
                () = lan.found.closed() => return,
            }
        }
    }

    async fn search(&self, interface: &Interface) -> io::Result<Infallible> {
        let asking = asking_socket(interface.v4)?;
        let listening = listening_socket(interface.index)?;
        let addresses = interface.addresses.iter().map(|ip| SocketAddr::new(*ip, self.listen_port));
        let us = Sighting { id: self.me, addresses: addresses.collect() };
        let (mut asked, mut questions) = (0, VecDeque::with_capacity(OPEN_QUESTIONS));
        let mut next = Instant::now();
        let mut budget = (next, ANSWERS);
        // Datagrams of multicast DNS fit into one Ethernet frame unless they are jumbo; ours are small.
        let (mut heard, mut answered) = ([0; 1500], [0; 1500]);
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    let salt = rand::random();
                    let name = self.gate.borrow().tokens().next().map(|keys| keys.mdns_name(salt));
                    let question = name.and_then(|name| packet::question(salt, &name, &us));
                    if questions.len() == OPEN_QUESTIONS {
                        questions.pop_front();
                    }
                    questions.push_back(salt);
                    // No route yet, a cable out: the next one may get through.
                    if let Err(error) = asking.send_to(&question.unwrap_or_default(), (GROUP, PORT)).await {
                        tracing::debug!(%error, from = %interface.v4, "cannot ask on the LAN");
                    }
                    counters::lock(&self.counters).lan_queries += 1;
                    next = Instant::now() + self.pause(asked);
                    asked += 1;
                }
                received = listening.recv_from(&mut heard) => {
                    let (length, from) = received?;
                    let Some(Packet::Question { salt, name, asker, id }) = packet::parse(&heard[..length]) else { continue };
                    if questions.contains(&salt) || !self.is_ours(salt, &name) {
                        continue;
                    }
                    if let Some(asker) = asker {
                        self.tell(asker).await;
                    }
                    if budget.0.elapsed() >= Duration::from_secs(1) {
                        budget = (Instant::now(), ANSWERS);
                    }
                    if budget.1 == 0 {
                        continue;
                    }
                    budget.1 -= 1;
                    let answer = packet::answer(salt, &name, id, &us).unwrap_or_default();
                    if asking.send_to(&answer, from).await.is_ok() {
                        counters::lock(&self.counters).lan_answers += 1;
                    }
                }
                received = asking.recv_from(&mut answered) => {
                    // An ICMP error of an answer of ours, to somebody who is gone.
                    let Ok((length, _)) = received else { continue };
                    let Some(Packet::Answer { salt, name, sightings }) = packet::parse(&answered[..length]) else { continue };
                    if questions.contains(&salt) && self.is_ours(salt, &name) {
                        for sighting in sightings {
                            self.tell(sighting).await;
                        }
                    }
                }
            }
        }
    }

    fn is_ours(&self, salt: u64, name: &str) -> bool {
        self.gate.borrow().tokens().any(|keys| keys.mdns_name(salt) == name)
    }

    fn pause(&self, asked: usize) -> Duration {
        let among = pause_among(self.neighbours.len());
        FIRST.get(asked).copied().unwrap_or_else(|| among.mul_f64(rand::random_range(0.75..1.25)))
    }

    async fn tell(&self, sighting: Sighting) {
        if sighting.id != self.me && !sighting.addresses.is_empty() {
            // The mesh has ended; the search is about to.
            let _ = self.found.send(sighting).await;
        }
    }
}

fn pause_among(neighbours: usize) -> Duration {
    let doubled = u32::try_from(neighbours).ok().and_then(|neighbours| 2_u32.checked_pow(neighbours));
    doubled.and_then(|factor| ALONE.checked_mul(factor)).map_or(SETTLED, |pause| pause.min(SETTLED))
}

/// Sends questions and answers, gets the answers to our questions.
fn asking_socket(from: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_if_v4(&from)?;
    socket.set_multicast_ttl_v4(TTL)?;
    // Other agents on this host (containers, tests) hear it too.
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(from, 0)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Hears the questions of one interface, beside any other responder on the host.
fn listening_socket(interface: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Only the group that this socket joined, hence only its interface.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(GROUP, PORT)).into())?;
    socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(interface))?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_few_neighbours_asks_often() {
        let pauses = [0, 1, 2, 4, 5, 1000].map(|neighbours| pause_among(neighbours).as_secs());
        assert_eq!(pauses, [15, 30, 60, 240, 300, 300]);
    }
}
