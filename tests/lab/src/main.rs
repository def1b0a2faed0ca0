//! Boots several c3os machines on one Linux host, and runs the demo and the checks.
//!
//! ```text
//! cargo lab up -> lab.rs -> ground.rs (namespaces, bridge) -> host.rs (boot) -> root.rs (file system)
//!                              net.rs (cables, cuts)            image.rs, tools.rs (what hosts boot from)
//! cargo demo -> demo.rs --.
//! stories/ ---------------+-> cluster.rs (the trait that they speak to) -> the verbs above, in processes of their own
//! cargo verify -> verify.rs (the table of checks) -> run.rs
//! cargo mesh-bench -> tests/bench
//! ```
#![expect(clippy::disallowed_methods, reason = "the lab waits for real machines in real time")]

mod args;
#[path = "../../bench/mod.rs"]
mod bench;
#[cfg(test)]
mod build_scripts;
mod cluster;
mod commands;
mod demo;
mod dir;
mod evidence;
mod fixture;
mod go;
mod ground;
mod host;
mod image;
mod lab;
mod net;
mod product;
mod require;
mod root;
mod run;
mod stories;
mod sys;
mod tools;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};

use crate::args::Args;
use crate::dir::{Init, Kind, LabDir};
use crate::lab::Wish;

const HELP: &str = "\
Boots several c3os machines on this one, each with a network, processes and files of its own.

  cargo lab up [--nodes N] [--init openrc|systemd] [--config FILE] [--bare] [--laptop] [--off] [--binary FILE]
  cargo lab exec NODE [--user UID] [--listen ADDR:PORT] -- CMD..
                                              run a command on a host; it is handed a socket that listens here
  cargo lab status [--output json]
  cargo lab kill NODE..                       cut the power
  cargo lab stop NODE..                       shut down
  cargo lab start NODE.. [--fresh-etc]        boot (with /etc as the image ships it)
  cargo lab add                               one host more, with the same config.yaml
  cargo lab cut A B                           nothing passes between two hosts
  cargo lab heal
  cargo lab down
  cargo lab story NAME [--init ..] [--seed N]     what an operator would do, and what has to come of it; or `all`
  cargo demo [--once] [--output json] [--init ..] three machines become a cluster
  cargo verify [--only CHECK | --full [--part NAME]]
  cargo mesh-bench [--tools A,B] [--rounds N] [--seconds N] [--quick] [--vxlan] [--pods] [--output json]
                   [--binary FILE | NAME=FILE,..]
                                              throughput, latency and cost beside other tunnels

Hosts are n1, n2, ... at 10.77.0.1, 10.77.0.2, ... Everything lies in target/lab, or where --dir says.
  --bare    the agent alone, without stages and service manager   --off     lay everything out, boot nothing
  --laptop  one host more, without an agent                       --binary  test this program instead of building one
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<i32> {
    let Some((verb, words)) = words.split_first() else {
        eprint!("{HELP}");
        return Ok(2);
    };
    let parse = |valued: &[&str], plain: &[&str]| Args::parse(words, &[valued, &["dir"]].concat(), plain);
    match verb.as_str() {
        "up" => {
            let args = parse(&["nodes", "init", "config", "binary"], &["bare", "laptop", "off"])?;
            let [] = args.words([])?;
            let wish = wish(&args)?;
            let dir = lab_dir(&args)?;
            let begin = std::time::Instant::now();
            let spec = lab::up(&dir, &wish)?;
            let seconds = begin.elapsed().as_secs_f64();
            eprintln!("lab: {} hosts up after {seconds:.1} s ({})", spec.hosts.len(), dir.path().display());
            Ok(0)
        }
        "exec" => {
            let args = parse(&["user", "listen"], &[])?;
            let [name] = args.words(["NODE"])?;
            let user = u32::try_from(args.number("user")?.unwrap_or(0))?;
            lab::exec(&lab_dir(&args)?, name, user, args.text("listen"), args.rest())
        }
        "status" => {
            let args = parse(&["output"], &[])?;
            let [] = args.words([])?;
            lab::status(&lab_dir(&args)?, as_json(&args)?)
        }
        "kill" => {
            let args = parse(&[], &[])?;
            lab::kill(&lab_dir(&args)?, args.all_words())
        }
        "stop" => {
            let args = parse(&[], &[])?;
            lab::stop(&lab_dir(&args)?, args.all_words())
        }
        "start" => {
            let args = parse(&[], &["fresh-etc"])?;
            lab::start(&lab_dir(&args)?, args.all_words(), args.has("fresh-etc"))
        }
        "add" => {
            let args = parse(&[], &[])?;
            let [] = args.words([])?;
            lab::add(&lab_dir(&args)?)
        }
        "cut" => {
            let args = parse(&[], &[])?;
            let [a, b] = args.words(["A", "B"])?;
            lab::cut(&lab_dir(&args)?, a, b)
        }
        "heal" => {
            let args = parse(&[], &[])?;
            let [] = args.words([])?;
            lab::heal(&lab_dir(&args)?)
        }
        "down" => {
            let args = parse(&[], &[])?;
            let [] = args.words([])?;
            lab::down(&lab_dir(&args)?)
        }
        "story" => {
            let args = parse(&["init", "seed", "binary"], &["real-runner"])?;
            let [name] = args.words(["NAME"])?;
            let options = stories::Options {
                init: init(&args)?,
                real_runner: args.has("real-runner"),
                seed: args.number("seed")?.unwrap_or(1),
                binary: args.text("binary").map(str::to_owned),
            };
            stories::run(&dir_or(&args, "lab-story")?, name, &options)
        }
        "demo" => {
            let args = parse(&["init", "output", "binary"], &["once", "real-runner"])?;
            let [] = args.words([])?;
            let options = demo::Options {
                init: init(&args)?,
                once: args.has("once"),
                json: as_json(&args)?,
                real_runner: args.has("real-runner"),
                binary: args.text("binary").map(str::to_owned),
            };
            demo::run(LabDir::new(&dir_or(&args, "lab-demo")?)?, &options)
        }
        "verify" => {
            let args = parse(&["only", "part"], &["full"])?;
            let [] = args.words([])?;
            let wanted = verify::Wanted::new(args.has("full"), args.text("only"), args.text("part"))?;
            verify::run(&target_dir()?, wanted)
        }
        "bench" => {
            let args =
                parse(&["tools", "rounds", "seconds", "output", "binary"], &["quick", "vxlan", "pods"])?;
            let [] = args.words([])?;
            bench::run(&bench::Options {
                tools: args.text("tools").map(str::to_owned),
                rounds: args.number("rounds")?.unwrap_or(5),
                seconds: args.number("seconds")?.unwrap_or(6),
                quick: args.has("quick"),
                vxlan: args.has("vxlan"),
                pods: args.has("pods"),
                json: as_json(&args)?,
                binary: args.text("binary").map(str::to_owned),
            })
        }
        "stage-commands" => commands::run(words),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(0)
        }
        other => bail!("{other} is not known; `cargo lab help` lists what is"),
    }
}

fn wish(args: &Args) -> Result<Wish> {
    let usual = Wish::default();
    Ok(Wish {
        nodes: args.number("nodes")?.map_or(Ok(usual.nodes), usize::try_from)?,
        init: init(args)?,
        kind: if args.has("bare") { Kind::Bare } else { Kind::Machine },
        config: args.text("config").map(PathBuf::from),
        binary: args.text("binary").map(str::to_owned),
        laptop: args.has("laptop"),
        boot: !args.has("off"),
        ..usual
    })
}

fn as_json(args: &Args) -> Result<bool> {
    let output = args.text("output").unwrap_or("text");
    ensure!(matches!(output, "text" | "json"), "--output {output}: there is text and json");
    Ok(output == "json")
}

fn init(args: &Args) -> Result<Init> {
    args.text("init").map_or(Ok(Wish::default().init), Init::parse)
}

fn lab_dir(args: &Args) -> Result<LabDir> {
    LabDir::new(&dir_or(args, "lab")?)
}

/// The directory given, else one beside the build that we are from.
fn dir_or(args: &Args, name: &str) -> Result<PathBuf> {
    match args.text("dir") {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Ok(target_dir()?.join(name)),
    }
}

/// Cargo's target directory: our program lies in `target/PROFILE/`.
fn target_dir() -> Result<PathBuf> {
    let ours = product::ours()?;
    let target = ours.parent().and_then(Path::parent);
    Ok(target.map_or_else(|| product::tree().join("target"), Path::to_path_buf))
}
