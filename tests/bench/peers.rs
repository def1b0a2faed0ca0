//! The others' programs: built once per version, as Go modules or crates, and kept in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools::{cache, filled, on_path, quiet};

/// A program of somebody else's.
pub struct Peer {
    /// The program's name, and its module's or crate's.
    name: &'static str,
    module: &'static str,
    version: &'static str,
    /// Packages of the module to build, each becoming a program.
    packages: &'static [&'static str],
    from: From,
}

enum From {
    Go,
    /// A Go module with `replace` lines, which `go install` refuses: built from a module that repeats them.
    GoReplacing,
    Crates,
}

pub const WIREGUARD_GO: Peer = Peer {
    name: "wireguard-go",
    module: "golang.zx2c4.com/wireguard",
    version: "v0.0.0-20260522210424-ecfc5a8d5446",
    packages: &[""],
    from: From::Go,
};
pub const NEBULA: Peer = Peer {
    name: "nebula",
    module: "github.com/slackhq/nebula",
    // Modules that v1.12 needs are not served everywhere.
    version: "v1.11.0",
    packages: &["/cmd/nebula", "/cmd/nebula-cert"],
    from: From::Go,
};
pub const EDGEVPN: Peer = Peer {
    name: "edgevpn",
    module: "github.com/mudler/edgevpn",
    // The sums of v0.31 are not served everywhere.
    version: "v0.30.2",
    packages: &[""],
    from: From::GoReplacing,
};
pub const BORINGTUN: Peer =
    Peer { name: "boringtun", module: "boringtun-cli", version: "0.7.1", packages: &[], from: From::Crates };

impl Peer {
    /// The directory with its programs.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn programs(&self) -> Result<PathBuf> {
        let kept = cache()?.join(format!("{}-{}", self.name, self.version));
        if !kept.exists() {
            eprintln!("bench: building {} {} (once; some minutes)", self.name, self.version);
            filled(&kept, |dir| self.build(dir))?;
        }
        Ok(kept.join("bin"))
    }

    fn build(&self, dir: &Path) -> Result<()> {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).context("making bin/")?;
        match self.from {
            From::Go => {
                for package in self.packages {
                    let mut install = go()?;
                    install.arg("install").arg(format!("{}{package}@{}", self.module, self.version));
                    quiet(install.env("GOBIN", &bin).current_dir(dir), &format!("building {}", self.name))?;
                }
                Ok(())
            }
            From::GoReplacing => self.build_replacing(dir, &bin),
            From::Crates => {
                let mut install = Command::new(on_path("cargo").context("no cargo on PATH")?);
                install.args(["install", "--quiet", "--locked", self.module, "--version", self.version]);
                install.arg("--root").arg(dir).current_dir(dir);
                quiet(&mut install, &format!("building {}", self.name))?;
                Ok(())
            }
        }
    }

    fn build_replacing(&self, dir: &Path, bin: &Path) -> Result<()> {
        let scratch = dir.join("module");
        fs::create_dir(&scratch).context("making module/")?;
        let step = |arguments: &[&str]| {
            quiet(go()?.args(arguments).current_dir(&scratch), &format!("building {}", self.name))
        };
        step(&["mod", "init", "bench"])?;
        step(&["mod", "edit", &format!("-require={}@{}", self.module, self.version)])?;
        step(&["mod", "download", self.module])?;
        let theirs = go()?
            .args(["list", "-m", "-f", "{{.GoMod}}", self.module])
            .current_dir(&scratch)
            .output()
            .context("starting go")?;
        let theirs = String::from_utf8_lossy(&theirs.stdout).trim().to_owned();
        let theirs = fs::read_to_string(&theirs).with_context(|| format!("reading {theirs}"))?;
        for replacement in replacements(&theirs) {
            step(&["mod", "edit", &format!("-replace={replacement}")])?;
        }
        step(&["build", "-o", &bin.join(self.name).to_string_lossy(), self.module])?;
        fs::remove_dir_all(&scratch).context("removing module/")
    }
}

fn go() -> Result<Command> {
    let go = on_path("go")
        .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.exists()))
        .context("no go on PATH")?;
    let mut command = Command::new(go);
    command.env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0");
    Ok(command)
}

/// The `replace A => B v1` lines of a go.mod, as `go mod edit -replace` takes them: `A=B@v1`.
fn replacements(go_mod: &str) -> Vec<String> {
    let mut block = false;
    let mut found = Vec::new();
    for line in go_mod.lines().map(str::trim) {
        let line = match line.strip_prefix("replace ") {
            Some("(") => {
                block = true;
                continue;
            }
            Some(rest) => rest,
            None if line == ")" => {
                block = false;
                continue;
            }
            None if block => line,
            None => continue,
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [old, "=>", new, version, ..] = words[..] {
            found.push(format!("{old}={new}@{version}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_lines_are_repeated_alone_and_in_blocks() {
        let go_mod = "module x\nrequire a v1\nreplace a/b => c/d v1.2.3\nreplace (\n\te => f v2\n)\nrequire (\n\tg v1\n)\n";
        assert_eq!(replacements(go_mod), ["a/b=c/d@v1.2.3", "e=f@v2"]);
    }
}
