//! `c3os get-network-token`: the secret that this machine is configured with.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use zeroize::Zeroizing;

use crate::{
    host::{self, Root},
    token::{Keyring, NetworkToken},
};

/// Prints the network token of this machine's configuration, without a newline.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directories or files with configuration; without any the usual places are read.
    dirs: Vec<PathBuf>,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let root = Root::at(args.root);
    let loaded = host::load_config(&root, host::mode(&root), &args.dirs);
    let Some(token) = &loaded.parsed.config.network_token else {
        if let Some(unreadable) = loaded.unreadable.into_iter().next() {
            return Err(unreadable.into());
        }
        let mistake =
            loaded.parsed.mistakes.iter().find(|mistake| mistake.key.starts_with("c3os.network_token"));
        let why = mistake.map_or_else(
            || "no configuration here has a c3os.network_token; `c3os create-config` makes one".to_owned(),
            ToString::to_string,
        );
        anyhow::bail!(why);
    };
    let configured = NetworkToken::parse(token.reveal()).context("c3os.network_token")?;
    // A file that could not be rewritten when the token was replaced names the old one; only root sees the new one.
    let kept = host::peek_tokens(&root).and_then(|kept| Keyring::resume(configured, &kept).ok());
    if let Some(ring) = kept.filter(|ring| ring.has_replaced(token.reveal())) {
        io::stdout().write_all(ring.current().encode().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // Quotes and line breaks are how somebody wrote it down.
    let bare: Zeroizing<String> = Zeroizing::new(
        token.reveal().chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect(),
    );
    io::stdout().write_all(bare.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
