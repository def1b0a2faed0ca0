//! `c3os schema`: what editors check config.yaml with.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::config;

/// Prints the JSON Schema of our blocks of config.yaml.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: Args) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(config::schema_text().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
