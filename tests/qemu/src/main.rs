//! Boots the real medium and the real disk in emulated machines. `cargo qemu [STORY]`.
//!
//! ```text
//! image/build ── c3os.iso, c3os.raw ──> machine.rs (QEMU) ── net.rs (one switch, nothing else)
//! seed.rs ── cidata drive ────────────────^   |
//! stories.rs <── events, commands ── port.rs ─+  (virtio-serial, one JSON object a line)
//! ```
#![expect(clippy::disallowed_methods, reason = "real machines take real time")]

mod machine;
mod net;
mod port;
mod power;
mod run;
mod seed;
mod stories;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::net::Switch;
use crate::stories::{Ground, STORIES};

const HELP: &str = "\
cargo qemu [--image DIR] [--seed N] [STORY..]     all of them, without a name
  --image  where c3os.iso and c3os.raw are; without it, image/build makes them
  --seed   for what is left to chance
Machines are emulated; with C3OS_QEMU_KVM=1 in the environment the kernel's KVM runs them.
Stories: ";

fn main() -> ExitCode {
    match play() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("qemu: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> Result<ExitCode> {
    let names: Vec<_> = STORIES.iter().map(|(name, _)| *name).collect();
    let mut image = None;
    let mut seed = 1;
    let mut wanted = Vec::new();
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--image" => image = Some(PathBuf::from(words.next().context("--image DIR")?)),
            "--seed" => seed = words.next().context("--seed N")?.parse().context("--seed N")?,
            "--help" | "-h" | "help" => {
                println!("{HELP}{}", names.join(" "));
                return Ok(ExitCode::SUCCESS);
            }
            "all" => {}
            name if names.contains(&name) => wanted.push(name.to_owned()),
            other => bail!("{other} is not known\n{HELP}{}", names.join(" ")),
        }
    }
    ensure!(run::run("id", &["-u"])?.trim() == "0", "guests need a switch, which only root can make");
    need()?;
    let image = match image {
        Some(dir) => dir,
        None => build()?,
    };
    let image = fs::canonicalize(&image).with_context(|| format!("--image {}", image.display()))?;
    let dir = image.join("guests");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let ground = Ground {
        iso: image.join("c3os.iso"),
        disk: image.join("c3os.raw"),
        binary: image.join("root/usr/bin/c3os"),
        dir,
        seed,
    };
    let mut figures = Map::new();
    let mut failed = 0;
    for (name, story) in
        STORIES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        eprintln!("== {name}");
        let begin = Instant::now();
        let told = Switch::new().and_then(|switch| story(&ground, &switch));
        let seconds = begin.elapsed().as_secs_f64();
        match told {
            Ok(value) => {
                eprintln!("== {name} {seconds:.0} s: passed");
                figures.insert((*name).to_owned(), value);
            }
            Err(error) => {
                eprintln!("== {name} {seconds:.0} s: FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    println!("{}", Value::Object(figures));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Debian's packages that stories use, each with a file of its.
const PACKAGES: [&str; 5] = [
    "qemu-system-x86=/usr/bin/qemu-system-x86_64",
    "ovmf=/usr/share/OVMF/OVMF_CODE_4M.fd",
    "iproute2=/usr/bin/ip",
    "mtools=/usr/bin/mcopy",
    "dosfstools=/usr/sbin/mkfs.vfat",
];

/// Installs what is missing, as the scripts that build the image do.
fn need() -> Result<()> {
    let ground = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/ground.sh");
    let status = Command::new("bash")
        .args(["-euc", ". \"$1\"; shift; need \"$@\"", "qemu"])
        .arg(ground)
        .args(PACKAGES)
        .status()
        .context("bash")?;
    ensure!(status.success(), "what emulates machines is missing");
    Ok(())
}

/// Builds the image; gives where it is.
fn build() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/build");
    let output =
        Command::new(script).stderr(std::process::Stdio::inherit()).output().context("image/build")?;
    ensure!(output.status.success(), "image/build failed");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = printed.lines().last().context("image/build printed nothing")?;
    Ok(Path::new(last).parent().context("image/build")?.to_owned())
}
