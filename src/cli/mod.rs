//! The command line: one file per verb, each with its `Args` and `run`.
//!
//! Data goes to stdout, words to stderr. Exit code 0: done, 1: failed, 2: wrong usage. Verbs that need the running
//! agent speak to it through its API, as scripts and the dashboard do.

mod agent;
mod ask;
mod bridge;
mod cluster;
mod completions;
mod create_config;
mod doctor;
mod generate_token;
mod get_kubeconfig;
mod get_network_token;
mod install;
mod node;
mod output;
mod peers;
mod ping;
mod reset;
mod role;
mod rotate;
mod schema;
mod stage;
mod status;
mod uuid;
mod validate;
mod wait;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Makes a pile of machines with one config.yaml into one encrypted mesh and one k3s cluster.
#[derive(Debug, Parser)]
#[command(name = "c3os", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// How much goes to the log on stderr: error, warn, info, debug, trace, or a filter such as `c3os::mesh=debug`.
    #[arg(long, global = true, env = "C3OS_LOG", value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(alias = "a")]
    Agent(agent::Args),
    Bridge(bridge::Args),
    #[command(alias = "g")]
    GenerateToken(generate_token::Args),
    #[command(alias = "c")]
    CreateConfig(create_config::Args),
    Install(install::Args),
    Schema(schema::Args),
    Stage(stage::Args),
    Status(status::Args),
    GetKubeconfig(get_kubeconfig::Args),
    Role(role::Args),
    Node(node::Args),
    Rotate(rotate::Args),
    Reset(reset::Args),
    Cluster(cluster::Args),
    Wait(wait::Args),
    Peers(peers::Args),
    Ping(ping::Args),
    Doctor(doctor::Args),
    Validate(validate::Args),
    #[command(alias = "u")]
    Uuid(uuid::Args),
    GetNetworkToken(get_network_token::Args),
    Completions(completions::Args),
}

/// Carries out what was asked for.
///
/// # Errors
/// What went wrong, for stderr; the exit code is then 1.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.verb {
        Verb::Agent(args) => agent::run(args),
        Verb::Bridge(args) => bridge::run(args),
        Verb::GenerateToken(args) => generate_token::run(args),
        Verb::CreateConfig(args) => create_config::run(args),
        Verb::Install(args) => install::run(args),
        Verb::Schema(args) => schema::run(args),
        Verb::Stage(args) => stage::run(args),
        Verb::Status(args) => status::run(args),
        Verb::GetKubeconfig(args) => get_kubeconfig::run(args),
        Verb::Role(args) => role::run(args),
        Verb::Node(args) => node::run(args),
        Verb::Rotate(args) => rotate::run(args),
        Verb::Reset(args) => reset::run(args),
        Verb::Cluster(args) => cluster::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Peers(args) => peers::run(args),
        Verb::Ping(args) => ping::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Validate(args) => validate::run(args),
        Verb::Uuid(args) => uuid::run(args),
        Verb::GetNetworkToken(args) => get_network_token::run(args),
        Verb::Completions(args) => completions::run(args),
    }
}

/// Sends the log to stderr, in colour only on a terminal and without `NO_COLOR`.
pub fn start_logging(cli: &Cli) {
    let filter = cli.log.as_deref().map_or_else(|| EnvFilter::new(default_filter(&cli.verb)), EnvFilter::new);
    let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::registry()
        .with(filter)
        .with(fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(true))
        .init();
}

/// Programs that run for long tell what they do; the others only what is wrong.
fn default_filter(verb: &Verb) -> &'static str {
    match verb {
        Verb::Agent(_) => "info",
        Verb::Bridge(_)
        | Verb::GenerateToken(_)
        | Verb::CreateConfig(_)
        | Verb::Install(_)
        | Verb::Schema(_)
        | Verb::Stage(_)
        | Verb::Status(_)
        | Verb::GetKubeconfig(_)
        | Verb::Role(_)
        | Verb::Node(_)
        | Verb::Rotate(_)
        | Verb::Reset(_)
        | Verb::Cluster(_)
        | Verb::Wait(_)
        | Verb::Peers(_)
        | Verb::Ping(_)
        | Verb::Doctor(_)
        | Verb::Validate(_)
        | Verb::Uuid(_)
        | Verb::GetNetworkToken(_)
        | Verb::Completions(_) => "warn",
    }
}

/// The runtime of the programs that run for long: the loop, its blocking helpers, no thread per core.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Whether the reader of our output went away, which is no fault of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
