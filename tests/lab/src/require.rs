//! What the lab needs of the machine: rights, and a few programs.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::dir::Init;
use crate::product;
use crate::sys::{Side, fork_into, run_child, wait_child};
use crate::tools::{on_path, quiet};

/// Set for the process that sudo starts: the product was built already, by the calling user.
pub const BUILT: &str = "C3OS_LAB_BUILT";

/// Programs, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("ping", "iputils-ping")];

/// How the lab gets the rights it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Root,
    /// Root inside of a user namespace of the lab's own.
    UserNamespace,
}

/// Finds a way to the rights that the lab needs; the last one is to run this program again through sudo.
pub fn rights(init: Init) -> Result<Rights> {
    if geteuid().is_root() {
        return Ok(Rights::Root);
    }
    let refusal = match (user_namespace(), init) {
        (Ok(()), Init::Openrc) => {
            eprintln!("lab: not root; using a user namespace");
            return Ok(Rights::UserNamespace);
        }
        (Ok(()), Init::Systemd) => "systemd needs a cgroup that only root can make".to_owned(),
        (Err(why), _) => format!("{why:#}"),
    };
    let Some(sudo) = on_path("sudo") else {
        bail!(
            "the lab needs root: {refusal}, and there is no sudo. Run it as root, or with --init openrc where user \
               namespaces and /dev/net/tun are open to you"
        );
    };
    eprintln!("lab: not root, and {refusal}; using sudo");
    let mut again = Command::new(sudo);
    again.arg("--").arg("env").arg(format!("{BUILT}=1"));
    for name in ["HOME", "PATH", "XDG_CACHE_HOME", "TERM", "CARGO_TARGET_DIR"] {
        if let Ok(value) = std::env::var(name) {
            again.arg(format!("{name}={value}"));
        }
    }
    again.arg(product::ours()?).args(std::env::args_os().skip(1));
    Err(again.exec()).context("starting sudo")
}

/// Whether a user namespace can be had that a lab can live in.
fn user_namespace() -> Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("/dev/net/tun cannot be opened by this user")?;
    match fork_into(CloneFlags::empty())? {
        Side::Child => run_child(|| {
            let user = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
            Ok(i32::from(unshare(user).is_err()))
        }),
        Side::Parent(child) => {
            ensure!(wait_child(child)? == 0, "user namespaces are not allowed here");
            Ok(())
        }
    }
}

/// Makes sure that the programs are there: installs them as root, else names their packages.
pub fn programs(init: Init) -> Result<()> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| on_path(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    if init == Init::Systemd && !Path::new("/usr/lib/systemd/systemd").exists() {
        missing.push("systemd");
    }
    packages(&missing)
}

/// Makes sure that Debian's packages are there: installs them as root, else names them.
pub fn packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    ensure!(
        geteuid().is_root() && on_path("apt-get").is_some(),
        "missing: {names}. Install them: sudo apt-get install {names}"
    );
    eprintln!("lab: installing {names}");
    let install = || {
        let mut install = Command::new("apt-get");
        install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing);
        quiet(install.env("DEBIAN_FRONTEND", "noninteractive"), "installing packages")
    };
    if install().is_err() {
        quiet(Command::new("apt-get").args(["update", "-qq"]), "reading the package lists")?;
        install()?;
    }
    Ok(())
}
