//! Mixed load for a long time over a lossy cable, with a change of keys every five seconds. `cargo verify --full --part
//! soak` runs it for ten minutes; `C3OS_SOAK_SECONDS` is for less.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{
    namespaces::{Host, noise, overlay, pair, within},
    *,
};
use crate::tunnel::DropReason;

/// One datagram in so many is lost, in both directions.
const LOSS: u32 = 200;
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

fn lose_datagrams() {
    let rules = format!(
        "table inet soak {{ chain input {{ type filter hook input priority 0; \
         udp dport 51900-51903 numgen random mod {LOSS} == 0 drop; }}; }}"
    );
    let done = std::process::Command::new("nft").arg(rules).status().expect("nftables is there");
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "ten minutes: cargo verify --full --part soak"]
async fn mixed_load_for_long_neither_corrupts_nor_stalls_nor_leaks() {
    let seconds = std::env::var("C3OS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let Some(hosts) = pair(Features::default(), 1500, Duration::from_secs(5)).await else { return };
    let hosts = Arc::new(hosts);
    for host in hosts.iter() {
        within(&host.jobs, lose_datagrams);
    }
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
