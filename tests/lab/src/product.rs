//! The product as the lab uses it: its binary, built or given, and its command line.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::require::BUILT;

/// The top of the source tree.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program to test: the one given, else the one that cargo builds beside our own.
pub fn binary(given: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = given {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "--binary {}: there is no such file", path.display());
        return Ok(path);
    }
    let ours = env::current_exe().context("our own program")?;
    let binary = ours.with_file_name("c3os");
    if env::var_os(BUILT).is_none() {
        let status = cargo()
            .args(["build", "--bin", "c3os"])
            .stdout(Stdio::null())
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "the product does not build");
    }
    ensure!(binary.is_file(), "{} is missing; build it: cargo build", binary.display());
    Ok(binary)
}

/// Cargo in the source tree; the one that runs us, if one does.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tree());
    cargo
}

/// One config.yaml for `nodes` machines, with a new token in it.
pub fn create_config(binary: &Path, nodes: usize) -> Result<String> {
    let output = Command::new(binary)
        .args(["create-config", "--nodes", &nodes.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", binary.display()))?;
    ensure!(output.status.success(), "c3os create-config --nodes {nodes} failed ({})", output.status);
    String::from_utf8(output.stdout).context("c3os create-config")
}
