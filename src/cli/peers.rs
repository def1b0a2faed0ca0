//! `c3os peers`: how packets travel to each of the others.

use std::process::ExitCode;

use super::{
    ask::Api,
    output::{Output, milliseconds, table},
};
use crate::node::snapshot::{Path, PathKind};

/// Shows the way to each peer: direct, by stream or relayed, round trip, loss, last handshake.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let snapshot = args.api.status()?;
    args.output.print(&snapshot.peers, || text(&snapshot.peers))?;
    if snapshot.peers.is_empty() {
        eprintln!("c3os: no peers: nobody else is there yet, or this machine has no interface (c3os status)");
    }
    Ok(ExitCode::SUCCESS)
}

/// At most 80 columns.
fn text(peers: &[Path]) -> String {
    if peers.is_empty() {
        return String::new();
    }
    let none = || "-".to_owned();
    let rows: Vec<[String; 6]> = peers
        .iter()
        .map(|path| {
            let kind = match path.kind {
                PathKind::Direct => "direct",
                PathKind::Stream => "stream",
                PathKind::Relayed => "relayed",
                PathKind::None => "none",
            };
            [
                if path.name.is_empty() { path.id.short() } else { path.name.clone() },
                kind.to_owned(),
                path.endpoint.map_or_else(none, |endpoint| endpoint.to_string()),
                path.rtt_us.map_or_else(none, milliseconds),
                path.loss_percent.map_or_else(none, |loss| format!("{loss:.0} %")),
                path.handshake_age_s.map_or_else(none, age),
            ]
        })
        .collect();
    table([("NAME", 18), ("PATH", 7), ("ENDPOINT", 21), ("RTT", 9), ("LOSS", 5), ("HANDSHAKE", 9)], &rows)
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeId;

    #[test]
    fn the_widest_row_fits_eighty_columns() {
        let path = Path {
            id: NodeId::from_bytes([1; 32]),
            name: "x".repeat(60),
            kind: PathKind::Relayed,
            endpoint: Some("[2001:db8:1111:2222:3333:4444:5555:6666]:51900".parse().unwrap()),
            rtt_us: Some(12_345_678),
            loss_percent: Some(100.0),
            handshake_age_s: Some(7000),
            sent_bytes: 0,
            received_bytes: 0,
        };
        let text = text(&[path]);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
