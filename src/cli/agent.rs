//! `c3os agent`: the service of a machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use sd_notify::NotifyState;

use crate::{
    api::{self, ApiSettings, SOCKET},
    daemon::{self, Purpose},
    host::Root,
};

/// Runs the agent: joins the mesh, takes part in founding, keeps this machine what its role says.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directories with configuration; without any the usual places are read.
    dirs: Vec<PathBuf>,
    /// Where the read-only API listens besides its unix socket: an address, or `off`.
    #[arg(long, env = "C3OS_API_LISTEN", default_value = "127.0.0.1:8080", value_parser = super::bridge::listen_address)]
    api: super::bridge::Listen,
    /// Accepted from the original's command line; it has no effect.
    #[arg(long, hide = true)]
    force: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the agent needs root: it makes an interface and configures k3s"
    );
    super::runtime()?.block_on(async {
        let (handle, control) = daemon::channel();
        let settings = ApiSettings {
            socket: SOCKET.into(),
            token_file: "/run/c3os/api.token".into(),
            tcp: args.api.0,
            tcp_required: false,
            user: None,
        };
        let server = api::serve(handle, settings).await.context("the API")?;
        // Nobody may be there to be told.
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("looking for other machines")]);
        let ended = daemon::run(Purpose::Machine(args.dirs), Root::system(), control).await;
        drop(server);
        ended.map(|()| ExitCode::SUCCESS)
    })
}
