//! `c3os ping`: round trips through the data plane.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::json;

use super::{
    ask::{Api, block_on, node},
    output::{Output, milliseconds},
};
use crate::{
    api::{Client, ClientError},
    daemon::handle::RefusalKind,
};

/// Measures round trips to a member through the encrypted tunnel.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its id, name, uuid or address.
    #[arg(value_parser = node)]
    node: String,
    /// How many.
    #[arg(long, short, env = "C3OS_COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Seconds in between.
    #[arg(long, short, env = "C3OS_INTERVAL", value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    #[command(flatten)]
    api: Api,
    #[command(flatten)]
    output: Output,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|interval| (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(interval))
        .ok_or_else(|| "use seconds, from 0.01 to 3600".to_owned())
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.api.client()?;
    let trips = block_on(ping(&args, &client))??;
    let answered: Vec<Duration> = trips.iter().flatten().copied().collect();
    let data = json!({
        "node": args.node,
        "sent": trips.len(),
        "received": answered.len(),
        "rtt_us": trips.iter().map(|trip| trip.map(|trip| trip.as_micros())).collect::<Vec<_>>(),
    });
    // The lines for people were printed as they came.
    args.output.print(&data, String::new)?;
    let lost = trips.len() - answered.len();
    match (answered.iter().min(), answered.iter().max()) {
        (Some(least), Some(most)) => {
            eprintln!("{} sent, {lost} lost, from {} to {}", trips.len(), print(*least), print(*most));
            Ok(ExitCode::SUCCESS)
        }
        (None, _) | (_, None) => {
            anyhow::bail!("{} does not answer; `c3os peers` shows the way there", args.node)
        }
    }
}

/// One entry for each that was sent; none: no answer.
async fn ping(args: &Args, client: &Client) -> anyhow::Result<Vec<Option<Duration>>> {
    let mut trips = Vec::new();
    for number in 0..args.count {
        if number > 0 {
            tokio::time::sleep(args.interval).await;
        }
        match client.ping(&args.node).await {
            Ok(trip) => {
                if args.output.is_text() {
                    writeln!(io::stdout(), "{}  {}", args.node, print(trip))?;
                }
                trips.push(Some(trip));
            }
            Err(ClientError::Refused(refusal)) if may_pass(refusal.kind) => {
                eprintln!("{}  no answer: {refusal}", args.node);
                trips.push(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(trips)
}

/// Whether the next one may get through.
fn may_pass(kind: RefusalKind) -> bool {
    match kind {
        RefusalKind::NotYet | RefusalKind::Failed => true,
        RefusalKind::NotFound | RefusalKind::NotAllowed => false,
    }
}

fn print(trip: Duration) -> String {
    milliseconds(u64::try_from(trip.as_micros()).unwrap_or(u64::MAX))
}
