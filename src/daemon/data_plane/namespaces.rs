//! Two data planes with real interfaces, each in a network namespace of its own, and TCP through them: what the kernel
//! does with our frames is seen nowhere else. Namespaces take root; without it these tests say so and pass.

#![expect(clippy::disallowed_types, reason = "an application's socket, not ours")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Instant,
};

use nix::sched::{CloneFlags, unshare};
use tokio::sync::Notify;

use super::*;
use crate::{identity::Identity, tunnel::REKEY_AFTER};

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The data planes' first port.
pub(super) const PORT: u16 = 51900;

/// A host: a thread in a namespace, which does what it is told.
pub(super) struct Host {
    id: NodeId,
    pub(super) number: u8,
    pub(super) plane: Arc<DataPlane>,
    pub(super) jobs: mpsc::UnboundedSender<Job>,
    /// The data plane has said that it has to be started anew.
    failed: Arc<Notify>,
}

/// A thread in a network namespace of its own.
pub(super) struct Namespace {
    /// What `ip` calls it.
    pub(super) path: String,
    /// The way to hand it work.
    pub(super) jobs: mpsc::UnboundedSender<Job>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, mut work) = mpsc::unbounded_channel::<Job>();
        let (tell, path) = std::sync::mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            let _ = tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()));
            // Tasks of this runtime run on this thread, and its other threads are children of it: all in the namespace.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                while let Some(job) = work.recv().await {
                    let _ = tokio::task::spawn_blocking(job).await;
                }
            });
        });
        let namespace = Self { path: path.recv().expect("the thread told"), jobs };
        within(&namespace.jobs, || ip("link set lo up"));
        namespace
    }

    /// Gives its end of a cable an address.
    pub(super) fn plug(&self, device: &'static str, address: Ipv4Addr) {
        within(&self.jobs, move || {
            ip(&format!("addr add {address}/24 dev {device}"));
            ip(&format!("link set {device} up"));
        });
    }
}

/// Does `job` in the namespace and gives what came of it.
pub(super) fn within<T: Send + 'static>(
    jobs: &mpsc::UnboundedSender<Job>,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, result) = std::sync::mpsc::channel();
    let job = move || {
        let _ = tell.send(job());
    };
    assert!(jobs.send(Box::new(job)).is_ok(), "the thread is there");
    result.recv().expect("the job did not panic")
}

pub(super) fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is there");
    assert!(done.success(), "ip {arguments}");
}

pub(super) fn overlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, number)
}

fn overlay_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0xc305, 0, 0, 0, 0, 0, u16::from(number))
}

/// Version and sublevel of the kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("every Linux has it");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().expect("a version"), numbers.next().expect("a sublevel"))
}

/// Two hosts with a cable of `mtu` bytes, whose interfaces are there already, as an agent with every feature leaves them;
/// none without the rights.
pub(super) async fn pair(features: Features, mtu: u16, rekey_after: Duration) -> Option<[Host; 2]> {
    let [a, b] = namespaces()?;
    let cable = format!("link add v1 mtu {mtu} type veth peer name v2 mtu {mtu} netns {}", b.path);
    within(&a.jobs, move || ip(&cable));
    let addresses = [1, 2].map(|number| Ipv4Addr::new(192, 168, 9, number));
    for (host, device, address) in [(&a, "v1", addresses[0]), (&b, "v2", addresses[1])] {
        host.plug(device, address);
    }
    for (host, interface) in [(&a, "tun1"), (&b, "tun2")] {
        within(&host.jobs, || drop(tun::open(interface, 1, &tun::Features::default()).expect("root may")));
    }
    // The other end has everything: it takes what the first one makes, and the other way round.
    let ends = [(a, features), (b, Features::default())];
    Some(connect(ends, addresses, addresses, rekey_after).await)
}

/// New namespaces; none without the rights.
pub(super) fn namespaces<const N: usize>() -> Option<[Namespace; N]> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces take root");
        return None;
    }
    Some(std::array::from_fn(|_| Namespace::new()))
}

/// Data planes in two namespaces, whose hosts have `addresses` and find each other at `candidates`, each at its own.
pub(super) async fn connect(
    ends: [(Namespace, Features); 2],
    addresses: [Ipv4Addr; 2],
    candidates: [Ipv4Addr; 2],
    rekey_after: Duration,
) -> [Host; 2] {
    let start = |number: u8, (namespace, features): (Namespace, Features)| {
        let id = Identity::from_seed(&[number; 32]).id();
        let address = addresses[usize::from(number) - 1];
        let (plane, events) = within(&namespace.jobs, move || {
            let settings = DataPlaneSettings {
                me: id,
                psk: Zeroizing::new([9; 32]),
                interface: format!("tun{number}"),
                port: PORT,
                addresses: vec![address.into()],
                mtu: DEFAULT_MTU,
                rekey_after,
                features,
            };
            let (plane, events) = DataPlane::start(settings).expect("root may");
            (Arc::new(plane), events)
        });
        let here = Arc::clone(&plane);
        within(&namespace.jobs, move || {
            let v4 = ipnet::Ipv4Net::new(overlay(number), 16).ok();
            let network = ipnet::Ipv6Net::new(overlay_v6(0), 64).expect("a prefix");
            let overlay = Overlay { v4, v6: Some((overlay_v6(number), network)), mtu: DEFAULT_MTU };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(here.set_overlay(&overlay)).expect("root may");
        });
        (Host { id, number, plane, jobs: namespace.jobs, failed: Arc::default() }, events)
    };
    let [a, b] = ends;
    let ((a, events_a), (b, events_b)) = (start(1, a), start(2, b));
    let routes = || {
        let route = |host: &Host| PeerRoute {
            id: host.id,
            addresses: vec![overlay(host.number).into(), overlay_v6(host.number).into()],
            candidates: vec![candidates[usize::from(host.number) - 1].into()],
        };
        vec![route(&a), route(&b)]
    };
    for (host, other, mut events) in [(&a, &b, events_a), (&b, &a, events_b)] {
        host.plane.set_routes(routes());
        host.plane.peers().await;
        let (me, plane, other) = (host.id, Arc::clone(&host.plane), Arc::clone(&other.plane));
        let failed = Arc::clone(&host.failed);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let DataPlaneEvent::HandshakeWanted { peer, ticket, message } = event {
                    let answer = other.handshake_request(me, message).await;
                    plane.handshake_answer(peer, ticket, Some(answer));
                } else if matches!(event, DataPlaneEvent::Failed { .. }) {
                    failed.notify_one();
                }
            }
        });
    }
    [a, b]
}

/// Sends `bytes` by TCP to `address` of `to`, and gives what arrived.
pub(super) fn transfer(from: &Host, to: &Host, address: IpAddr, bytes: &[u8]) -> Vec<u8> {
    let listener = within(&to.jobs, move || TcpListener::bind((address, 0)).expect("our own address"));
    let port = listener.local_addr().expect("bound").port();
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("all of it comes");
        received
    });
    let bytes = bytes.to_vec();
    within(&from.jobs, move || {
        let to = (address, port).into();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("a way");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        stream.write_all(&bytes).expect("it takes all");
    });
    received.join().expect("it did not panic")
}

/// Bytes in which a lost or swapped piece shows.
pub(super) fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

async fn carries(features: Features, mtu: u16) {
    let Some([a, b]) = pair(features, mtu, REKEY_AFTER).await else { return };
    let bytes = noise(3_000_000);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let sent = bytes.clone();
        let arrived = tokio::task::block_in_place(|| transfer(from, to, overlay(to.number).into(), &sent));
        assert!(arrived == bytes, "{} of {} bytes", arrived.len(), bytes.len());
    }
    for host in [&a, &b] {
        let refused = host.plane.shared.counters.get(crate::tunnel::DropReason::DeviceRefused);
        assert_eq!(refused, 0, "{:?}", host.plane.counters());
    }
}

macro_rules! without {
    ($($test:ident $name:literal)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                carries(Features::default().without($name).expect("there is one"), 1500).await;
            }
        )*
    };
}

without! {
    tcp_arrives_without_the_vnet_header "vnet"
    tcp_arrives_without_several_queues "multi-queue"
    tcp_arrives_without_tcp_super_packets "tso"
    tcp_arrives_without_udp_super_packets "uso"
    tcp_arrives_without_super_packets_in_tunnels "tunnel-gso"
    tcp_arrives_without_trains_sent "gso"
    tcp_arrives_without_trains_received "gro"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_arrives_with_everything() {
    carries(Features::default(), 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_arrives_over_a_cable_that_takes_less_than_the_interface_promises() {
    carries(Features::default(), 1380).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_that_the_hosts_route_via_each_other_reach_each_other() {
    let Some(hosts) = pair(Features::default(), 1500, REKEY_AFTER).await else { return };
    let pod = |number: u8| Ipv4Addr::new(10, 42, number, 1);
    for (host, other) in [(&hosts[0], 2), (&hosts[1], 1)] {
        let number = host.number;
        within(&host.jobs, move || {
            ip(&format!("addr add {}/32 dev lo", pod(number)));
            let (via, from) = (overlay(other), pod(number));
            ip(&format!("route add 10.42.{other}.0/24 via {via} dev tun{number} src {from}"));
        });
    }
    let bytes = noise(1_000_000);
    let arrived = tokio::task::block_in_place(|| transfer(&hosts[0], &hosts[1], pod(2).into(), &bytes));
    assert!(arrived == bytes, "{} of {} bytes", arrived.len(), bytes.len());
}

/// A VXLAN between the hosts, as flannel makes it, or with `more` on top; gives how many packets came out of it at the
/// receiving end for 3 MB of TCP.
async fn through_a_vxlan(features: Features, v6: bool, more: &str) -> Option<u64> {
    let [a, b] = pair(features, 1500, REKEY_AFTER).await?;
    let inside = |number: u8| Ipv4Addr::new(10, 97, 0, number);
    for host in [&a, &b] {
        let (number, more) = (host.number, more.to_owned());
        let ends = move |number| match v6 {
            true => overlay_v6(number).to_string(),
            false => overlay(number).to_string(),
        };
        within(&host.jobs, move || {
            let (local, remote) = (ends(number), ends(3 - number));
            ip(&format!(
                "link add vx0 type vxlan id 1 dstport 8472 local {local} remote {remote} dev tun{number} nolearning{more}"
            ));
            ip(&format!("addr add {}/24 dev vx0", inside(number)));
            ip("link set vx0 mtu 1350 up");
        });
    }
    let bytes = noise(3_000_000);
    let arrived = tokio::task::block_in_place(|| transfer(&a, &b, inside(2).into(), &bytes));
    assert!(arrived == bytes, "{} of {} bytes", arrived.len(), bytes.len());
    for host in [&a, &b] {
        let refused = host.plane.shared.counters.get(crate::tunnel::DropReason::DeviceRefused);
        assert_eq!(refused, 0, "{:?}", host.plane.counters());
    }
    Some(within(&b.jobs, || {
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").expect("every Linux has it");
        let line = devices.lines().find_map(|line| line.trim().strip_prefix("vx0:")).expect("it is there");
        line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number")
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_arrives_through_a_vxlan_in_super_packets() {
    let everything = Features::default();
    let apart = everything.without("tunnel-gso").expect("there is one");
    for (v6, more) in [(false, ""), (false, " udpcsum"), (true, ""), (true, " udp6zerocsumtx udp6zerocsumrx")]
    {
        let Some(packets) = through_a_vxlan(everything, v6, more).await else { return };
        if kernel() >= (6, 17) {
            assert!(packets < 1000, "{packets} packets of 3 MB, IPv6: {v6},{more}");
        }
    }
    through_a_vxlan(apart, false, "").await;
}

/// The fragments of a long datagram may be fragmented again, so nothing says that they have to fit: their sender hears
/// of it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_datagrams_arrive_over_a_path_that_is_narrower_than_the_interface() {
    let Some([a, b]) = pair(Features::default(), 1400, REKEY_AFTER).await else { return };
    let socket = |host: &Host| {
        let own = (overlay(host.number), 0);
        within(&host.jobs, move || UdpSocket::bind(own).expect("our own address"))
    };
    let (from, to) = (socket(&a), socket(&b));
    to.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit");
    let address = to.local_addr().expect("bound");
    let (sent, mut received) = (noise(5000), vec![0; 5001]);
    let arrived = (0..20).any(|_| {
        // What an earlier one was told comes as an error of the next.
        let _ = from.send_to(&sent, address);
        to.recv(&mut received).is_ok_and(|length| received[..length] == sent[..])
    });
    assert!(arrived, "{:?}", a.plane.counters());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_ipv6_gets_its_ipv4_address() {
    let Some([namespace]) = namespaces() else { return };
    let set = within(&namespace.jobs, || {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("root may");
        drop(tun::open("tun1", 1, &tun::Features::default()).expect("root may"));
        let v4 = ipnet::Ipv4Net::new(overlay(1), 16).ok();
        let network = ipnet::Ipv6Net::new(overlay_v6(0), 64).expect("a prefix");
        let overlay = Overlay { v4, v6: Some((overlay_v6(1), network)), mtu: DEFAULT_MTU };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(tun::configure("tun1", &overlay)).map_err(|error| error.to_string())
    });
    assert_eq!(set, Ok(()));
}

/// Whichever thread reads it, and whether or not there is traffic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_that_is_taken_away_is_noticed() {
    for bulk in [0, 1_000_000] {
        let Some([a, b]) = pair(Features::default(), 1500, REKEY_AFTER).await else { return };
        tokio::task::block_in_place(|| transfer(&a, &b, overlay(2).into(), &noise(bulk)));
        within(&a.jobs, || ip("link del tun1"));
        let told = tokio::time::timeout(Duration::from_secs(10), a.failed.notified()).await;
        assert!(told.is_ok(), "after {bulk} bytes");
    }
}

/// Starts something that sends back what comes; gives its address.
fn echo(host: &Host) -> SocketAddr {
    let number = host.number;
    let echo = within(&host.jobs, move || UdpSocket::bind((overlay(number), 0)).expect("our own address"));
    let address = echo.local_addr().expect("bound");
    thread::spawn(move || {
        let mut bytes = [0; 1000];
        while let Ok((length, from)) = echo.recv_from(&mut bytes) {
            let _ = echo.send_to(&bytes[..length], from);
        }
    });
    address
}

/// Sends datagrams there, `at_once` of them at a time, until `end`; gives how many did not come back in their order.
fn lost_echoes(echo: SocketAddr, at_once: u32, end: Instant) -> u32 {
    let socket = UdpSocket::bind((overlay(1), 0)).expect("our own address");
    socket.connect(echo).expect("an address");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
    let mut sent = 0u32;
    let mut lost = 0;
    while Instant::now() < end {
        let first = sent;
        for _ in 0..at_once {
            socket.send(&sent.to_be_bytes().repeat(100)).expect("a way");
            sent += 1;
        }
        for number in first..sent {
            let mut bytes = [0; 1000];
            match socket.recv(&mut bytes) {
                Ok(400) if bytes[..4] == number.to_be_bytes() => {}
                Ok(_) | Err(_) => lost += 1,
            }
        }
    }
    lost
}

/// Bulk parts the two threads of a queue, and a while of single datagrams joins them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_datagram_is_lost_while_the_threads_of_a_queue_part_and_join() {
    let Some([a, b]) = pair(Features::default(), 1500, REKEY_AFTER).await else { return };
    let echo = echo(&b);
    for _ in 0..3 {
        let bytes = noise(1_000_000);
        let arrived = tokio::task::block_in_place(|| transfer(&a, &b, overlay(2).into(), &bytes));
        assert!(arrived == bytes, "{} of {} bytes", arrived.len(), bytes.len());
        let lost = tokio::task::block_in_place(|| {
            within(&a.jobs, move || lost_echoes(echo, 1, Instant::now() + Duration::from_millis(300)))
        });
        assert_eq!(lost, 0);
    }
}

/// Datagrams are not sent again, so each one that a change of keys costs is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_datagram_is_lost_while_sessions_are_replaced_under_load() {
    let Some([a, b]) = pair(Features::default(), 1500, Duration::from_millis(300)).await else { return };
    let echo = echo(&b);
    let lost = tokio::task::block_in_place(|| {
        // A few under way at a time: no queue overflows.
        within(&a.jobs, move || lost_echoes(echo, 8, Instant::now() + Duration::from_secs(4)))
    });
    assert_eq!(lost, 0);
    let peers = a.plane.peers().await;
    let age = peers[0].last_handshake.expect("there is a session").elapsed();
    assert!(age < Duration::from_millis(2500), "the session in use is {age:?} old");
}
