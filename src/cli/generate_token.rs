//! `c3os generate-token`: the one secret of a new mesh.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use crate::token::NetworkToken;

/// Prints a new network token: one line, the secret that all machines of a mesh share.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A peer that every machine dials first, as a multiaddress; may be given more than once.
    #[arg(long = "peer", value_name = "ADDR", env = "C3OS_PEER", value_delimiter = ',')]
    peers: Vec<String>,
    /// Accepted from the original's command line; it has no effect, keys here do not depend on a clock.
    #[arg(hide = true)]
    interval: Option<String>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.interval.is_some() {
        eprintln!("c3os: the interval has no effect: keys of this mesh do not depend on a clock");
    }
    writeln!(io::stdout(), "{}", new_token(args.peers)?.encode().as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a token from the operating system's random source.
pub(super) fn new_token(peers: Vec<String>) -> anyhow::Result<NetworkToken> {
    let random = zeroize::Zeroizing::new(
        ring::rand::generate::<[u8; 160]>(&ring::rand::SystemRandom::new())
            .ok()
            .context("the operating system's random source does not answer")?
            .expose(),
    );
    Ok(NetworkToken::generate(&random, peers)?)
}
