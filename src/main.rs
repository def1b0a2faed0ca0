//! `c3os`: arguments, logging, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;

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
