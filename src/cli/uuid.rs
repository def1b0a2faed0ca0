//! `c3os uuid`: what the original calls this machine.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use crate::host::{self, Root};

/// Prints `<machine id>-<host name>` without a newline; $UUID overrides it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print this instead.
    #[arg(long, hide = true, env = "UUID")]
    uuid: Option<String>,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let uuid = match args.uuid.filter(|uuid| !uuid.is_empty()) {
        Some(uuid) => uuid,
        None => host::names(&Root::at(args.root))?.uuid,
    };
    io::stdout().write_all(uuid.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
