//! Mixed load for a long time through a router that loses and reorders, with a change of keys every five seconds. `cargo
//! verify --full --part soak` runs it for ten minutes; `C3OS_SOAK_SECONDS` is for less.

#![expect(clippy::disallowed_types, reason = "a router's sockets, not ours")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Instant,
};

use super::{
    namespaces::{Host, PORT, connect, ip, namespaces, noise, overlay, within},
    *,
};
use crate::tunnel::DropReason;

/// One datagram in so many is lost, in both directions.
const LOSS: u32 = 200;
/// One in so many arrives late, after so many that were sent after it.
const LATE: u32 = 50;
const OVERTAKEN_BY: u32 = 3;
/// What the process may hold more at the end than after the first transfers, KiB.
const GROWTH: u64 = 16 * 1024;

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Bytes that a transfer holds at a time: what grows is the data plane, not the test.
const PIECE: usize = 64 << 10;

/// Makes a piece differ from all others.
fn number(piece: &mut [u8], index: usize) {
    piece[..8].copy_from_slice(&index.to_be_bytes());
}

/// Sends pieces of noise by TCP; whether all arrived as they were.
fn transfer(from: &Host, to: &Host, pieces: usize) -> bool {
    let address = IpAddr::from(overlay(to.number));
    let listener = within(&to.jobs, move || TcpListener::bind((address, 0)).expect("our own address"));
    let port = listener.local_addr().expect("bound").port();
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let (mut expected, mut piece) = (noise(PIECE), vec![0; PIECE]);
        let sound = (0..pieces).all(|index| {
            number(&mut expected, index);
            stream.read_exact(&mut piece).is_ok() && piece == expected
        });
        sound && matches!(stream.read(&mut piece), Ok(0))
    });
    within(&from.jobs, move || {
        let to = (address, port).into();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("a way");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let mut piece = noise(PIECE);
        for index in 0..pieces {
            number(&mut piece, index);
            stream.write_all(&piece).expect("it takes all");
        }
    });
    received.join().expect("it did not panic")
}

/// Two hosts with a router in between, which passes their datagrams on as [`pass`] does; none without the rights.
async fn through_a_bad_router() -> Option<[Host; 2]> {
    let [a, router, b] = namespaces()?;
    let ends = [Ipv4Addr::new(192, 168, 9, 1), Ipv4Addr::new(192, 168, 10, 1)];
    let sides = [Ipv4Addr::new(192, 168, 9, 9), Ipv4Addr::new(192, 168, 10, 9)];
    for (host, device, port, at) in [(&a, "v1", "r1", 0), (&b, "v2", "r2", 1)] {
        let cable = format!("link add {device} type veth peer name {port} netns {}", router.path);
        within(&host.jobs, move || ip(&cable));
        host.plug(device, ends[at]);
        router.plug(port, sides[at]);
    }
    for port in (PORT..).take(MAX_QUEUES) {
        let bind = move |side| UdpSocket::bind((side, port)).expect("nobody else is there");
        let [left, right] = within(&router.jobs, move || sides.map(bind)).map(Arc::new);
        for (from, to, end) in [(&left, &right, ends[1]), (&right, &left, ends[0])] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            thread::spawn(move || pass(&from, &to, (end, port).into()));
        }
    }
    let [left, right] = sides;
    let ends_of = [(a, Features::default()), (b, Features::default())];
    // Either end finds the other one at the router's side towards itself.
    Some(connect(ends_of, ends, [right, left], Duration::from_secs(5)).await)
}

/// Passes datagrams on: loses some, and holds some back until others have overtaken them.
fn pass(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) {
    from.set_read_timeout(Some(Duration::from_millis(5))).expect("a time limit");
    let send = |datagram: &[u8]| {
        // A full queue loses one more.
        let _ = to.send_to(datagram, address);
    };
    let mut held: Option<(u32, Vec<u8>)> = None;
    let mut buffer = [0; 2048];
    let mut count = 0u32;
    loop {
        let received = from.recv(&mut buffer);
        if let Ok(length) = received {
            count = count.wrapping_add(1);
            if count.is_multiple_of(LATE) && held.is_none() {
                held = Some((count, buffer[..length].to_vec()));
            } else if !count.is_multiple_of(LOSS) {
                send(&buffer[..length]);
            }
        }
        let due = |since: u32| received.is_err() || count.wrapping_sub(since) >= OVERTAKEN_BY;
        if let Some((_, late)) = held.take_if(|(since, _)| due(*since)) {
            send(&late);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "ten minutes: cargo verify --full --part soak"]
async fn mixed_load_for_long_neither_corrupts_nor_stalls_nor_leaks() {
    let seconds = std::env::var("C3OS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let Some(hosts) = through_a_bad_router().await else { return };
    let hosts = Arc::new(hosts);
    let end = Instant::now() + Duration::from_secs(seconds);
    let load = |from: usize, pieces: usize| {
        let hosts = Arc::clone(&hosts);
        tokio::task::spawn_blocking(move || {
            let (from, to) = (&hosts[from], &hosts[1 - from]);
            let (mut transfers, mut early) = (0u32, 0);
            while Instant::now() < end {
                assert!(transfer(from, to, pieces), "{pieces} pieces did not arrive as they were");
                transfers += 1;
                if transfers == 3 {
                    early = resident();
                }
            }
            (transfers, early)
        })
    };
    // Long transfers one way, short ones the other: bulk, and connections that come and go.
    let (long, short) = (load(0, 300), load(1, 1));
    let ((long, early), (short, _)) = (long.await.expect("sound"), short.await.expect("sound"));
    let (late, replaced) = (resident(), hosts[0].plane.peers().await[0].last_handshake);
    let age = replaced.expect("there is a session").elapsed();
    println!(
        "{{\"seconds\":{seconds},\"long_transfers\":{long},\"short_transfers\":{short},\"rss_kib_early\":{early},\
         \"rss_kib_late\":{late},\"session_age_seconds\":{:.1}}}",
        age.as_secs_f64()
    );
    assert!(long >= 3 && short >= 3, "it stalls");
    assert!(age < Duration::from_secs(20), "sessions are not replaced");
    assert!(late < early + GROWTH, "{early} KiB became {late}");
    for host in hosts.iter() {
        let counters = &host.plane.shared.counters;
        for reason in [DropReason::NotAuthentic, DropReason::BadMeta, DropReason::DeviceRefused] {
            assert_eq!(counters.get(reason), 0, "{:?}", host.plane.counters());
        }
    }
}
