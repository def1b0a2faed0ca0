//! The machine: files that survive a power cut, service managers, and carrying out a [`Plan`](crate::k3s::Plan).
//! Other rooms decide; this one does, and it is the one place that runs commands.
//!
//! ```text
//! /oem, /usr/local/cloud-config ── discover() ──> config
//! /usr/local/.c3os/identity, ledger, lease ─────> what this machine was before
//! Plan ── apply() ──> /etc/rancher/k3s, drop-ins, units ── observe() ──> K3sObserved
//! ```
//!
//! Every path is under one [`Root`], so that tests use a directory of their own. Nothing here panics for what a disk
//! does: no space, read-only and damage come back as [`HostError`]s that name the file and what to do.

#![expect(clippy::disallowed_methods, reason = "the machine has a clock, and this room may look at it")]

mod apply;
mod atomic;
mod boot;
mod client_certificate;
mod discover;
pub mod disk;
mod fingerprint;
mod identity;
mod layout;
mod leave;
mod ledger;
mod machine;
mod name;
mod node_password;
mod observe;
mod openrc;
mod process;
mod reset;
mod root;
mod services;
mod state;
mod systemd;
#[cfg(test)]
mod tests;
mod token_file;

use std::{io, path::PathBuf};

use crate::election::ClusterId;

pub use apply::{Outcome, UnitAction, apply};
pub use boot::{AGENT, MachineId, agent_is_enabled, keep_machine_id, set_agent_enabled};
pub use client_certificate::{ClientCertificate, client_certificate};
pub use discover::{Loaded, load_config};
pub use identity::{IdentityFound, Origin, has_identity, load_identity};
pub use layout::{K3S_CLUSTER, keep_k3s_state};
pub use leave::{leave, stop};
pub use ledger::LedgerFile;
pub use machine::{Mode, inspect, local_networks, mode, other_provider};
pub use name::{Names, fix_names, names};
pub use observe::{K3sObserved, k3s_version, kubeconfig, observe};
pub use reset::{reset, reset_objection};
pub use root::Root;
pub use services::{Services, UnitState, UnitStatus, detect};
pub use state::{
    peek_tokens, read_applied, read_certificate, read_lease, read_mark, read_peers, read_tokens,
    write_certificate, write_lease, write_mark, write_peers, write_tokens,
};
pub use token_file::renew_token;

/// What went wrong on the machine.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file could not be read, written, moved or removed.
    #[error("cannot {operation} {path}: {}", explain(.source))]
    File {
        /// What was tried: `read`, `write`, ...
        operation: &'static str,
        /// As the machine names it.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A state file is there and does not hold what was written to it. It was moved aside.
    #[error("{path} is damaged ({why}); it was kept as {set_aside} and this machine goes on without it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: &'static str,
        /// Where its bytes are now.
        set_aside: PathBuf,
    },
    /// A secret file that others than its owner can read.
    #[error(
        "{path} can be read by others (mode {mode:04o}); make sure that nobody copied it, then: chmod 600 {path}"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A command could not be run, or failed.
    #[error("`{command}` {failure}")]
    Command {
        /// With its arguments; never a secret among them.
        command: String,
        /// What happened.
        failure: String,
    },
    /// This machine belongs to another cluster than the plan says. Nothing was changed.
    #[error(
        "this machine is {role} of cluster {applied} and is now asked to be in cluster {planned}; nothing was \
         changed. To leave the old cluster: c3os cluster join {planned}"
    )]
    OtherCluster {
        /// The role it has.
        role: crate::election::Role,
        /// The cluster it is in.
        applied: ClusterId,
        /// The cluster of the plan.
        planned: ClusterId,
    },
}

impl HostError {
    /// Whether trying again can help without anybody doing anything: the disk was full, a command timed out.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Command { .. } => true,
            Self::Damaged { .. } | Self::Exposed { .. } | Self::OtherCluster { .. } => false,
        }
    }
}

/// The operating system's words, and what to do where that is known.
fn explain(error: &io::Error) -> String {
    let fix = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; make room on that file system",
        Some(libc::EROFS) => "; the file system is read-only: it has to be writable at boot",
        Some(libc::EACCES | libc::EPERM) => "; run this as root",
        Some(_) | None => "",
    };
    format!("{error}{fix}")
}
