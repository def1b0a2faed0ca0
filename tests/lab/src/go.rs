//! A Go toolchain that is new enough: the machine's, or one that an older one fetches as a module.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::tools;

/// From this release on the go command fetches a newer toolchain by itself where a module asks for one.
const FETCHES_ITSELF: (u32, u32) = (1, 21);

/// A go command that builds a module of Go `needed` (`1.23.6`); none where the machine has no Go at all.
pub fn command(needed: &str) -> Result<Option<Command>> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    let Some(go) = tools::on_path("go").or_else(|| Some(usual).filter(|go| go.exists())) else {
        return Ok(None);
    };
    let output =
        Command::new(&go).env("GOTOOLCHAIN", "local").arg("version").output().context("go version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let has = release(&text).with_context(|| format!("{} does not say which Go it is", go.display()))?;
    let newer = if has < FETCHES_ITSELF { toolchain(&go, needed)? } else { go };
    let mut command = Command::new(newer);
    // Debian's keeps to itself unless it is told otherwise.
    command.env("GOTOOLCHAIN", "auto").env("CGO_ENABLED", "0");
    Ok(Some(command))
}

/// `go version go1.19.8 linux/amd64` is (1, 19).
fn release(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((1, digits.parse().ok()?))
}

/// The toolchain of that version, which the module proxy has as a module.
fn toolchain(go: &Path, version: &str) -> Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go toolchain is known for {other}; install Go 1.21 or newer"),
    };
    eprintln!("lab: this machine's Go is older than 1.21; fetching {version} (once)");
    let module = format!("golang.org/toolchain@v0.0.1-go{version}.linux-{arch}");
    let output = Command::new(go)
        .args(["mod", "download", "-json", &module])
        .current_dir(std::env::temp_dir())
        .output()
        .context("starting go")?;
    let told: Value = serde_json::from_slice(&output.stdout).context("go mod download")?;
    let dir = told["Dir"].as_str().map(PathBuf::from);
    let Some(dir) = dir.filter(|_| output.status.success()) else {
        bail!("fetching {module}: {}", told["Error"].as_str().unwrap_or("no directory was named"))
    };
    // A module's files are read-only data to an old go command.
    let programs = ["bin".to_owned(), format!("pkg/tool/linux_{arch}")];
    for entry in programs.iter().map(|sub| fs::read_dir(dir.join(sub))) {
        for file in entry.context("a Go toolchain without programs")? {
            let path = file.context("a Go toolchain")?.path();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("making {} a program", path.display()))?;
        }
    }
    let go = dir.join("bin/go");
    ensure!(go.is_file(), "{} is missing", go.display());
    Ok(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_what_go_says() {
        assert_eq!(release("go version go1.19.8 linux/amd64"), Some((1, 19)));
        assert_eq!(release("go version go1.26rc1 linux/amd64"), Some((1, 26)));
        assert_eq!(release("go version devel"), None);
    }
}
