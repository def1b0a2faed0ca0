//! `c3os`: arguments, logging, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;

/// `image/compare-builds` measures it against musl's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = c3os::cli::Cli::parse();
    c3os::cli::start_logging(&cli);
    match c3os::cli::run(cli) {
        Ok(code) => code,
        Err(error) if c3os::cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c3os: {error:#}");
            ExitCode::FAILURE
        }
    }
}
