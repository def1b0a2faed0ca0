//! `cargo verify`: every check there is, one after the other, as a table.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{End, Signals};
use crate::{evidence, product, tools};

/// One check.
struct Step {
    name: &'static str,
    check: Check,
}

/// What a check does.
enum Check {
    /// `cargo ...`; an exit code of 0 is a pass.
    Cargo(&'static [&'static str]),
    /// `cargo test --test NAME`, where there is such a target.
    Tests(&'static str),
    /// A script of the tree, with its arguments.
    Script(&'static str, &'static [&'static str]),
    /// This very program.
    Lab(&'static [&'static str]),
    /// This very program, about the product as it is released.
    LabReleased(&'static [&'static str]),
    /// The client of Kubernetes' API against a real one.
    Lease,
    /// cargo-deny, where it can be had.
    Deny,
    /// The schema in the tree is the one that the types give.
    Schema,
    /// The examples, by a validator that is not ours.
    Examples,
    /// Not run every time, for this reason.
    Apart(&'static str),
}

const SCHEMA: &str = "cloud-config-schema/c3os.schema.json";

/// The checks in their order: what is quick and often wrong comes first.
const STEPS: &[Step] = &[
    Step { name: "format", check: Check::Cargo(&["fmt", "--all", "--check"]) },
    Step {
        name: "purity",
        check: Check::Cargo(&["clippy", "-q", "--lib", "--no-default-features", "--", "-D", "warnings"]),
    },
    Step {
        name: "lint",
        check: Check::Cargo(&["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Step { name: "deny", check: Check::Deny },
    Step { name: "overlay", check: Check::Script("image/check-overlay", &[]) },
    // Without the simulation, which wants the library otherwise: what these build, the next ones find.
    Step { name: "build", check: Check::Cargo(&["build", "-q", "--workspace", "--exclude", "sim"]) },
    Step { name: "schema", check: Check::Schema },
    Step { name: "examples", check: Check::Examples },
    Step {
        name: "unit",
        check: Check::Cargo(&["test", "-q", "--workspace", "--exclude", "sim", "--lib", "--bins"]),
    },
    Step {
        name: "sim",
        check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "sim", "--", "--schedules", "3000"]),
    },
    Step {
        name: "seeds",
        check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "sim", "--", "--kept"]),
    },
    Step { name: "fuzz", check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "fuzz"]) },
    Step { name: "cli", check: Check::Tests("cli") },
    Step { name: "mesh", check: Check::Tests("mesh") },
    Step {
        name: "stories-openrc",
        check: Check::Lab(&["story", "all", "--init", "openrc", "--real-runner"]),
    },
    Step {
        name: "stories-systemd",
        check: Check::Lab(&["story", "all", "--init", "systemd", "--real-runner"]),
    },
    Step { name: "demo-openrc", check: Check::Lab(&["demo", "--once", "--init", "openrc", "--real-runner"]) },
    Step {
        name: "demo-systemd",
        check: Check::Lab(&["demo", "--once", "--init", "systemd", "--real-runner"]),
    },
    Step {
        name: "idle",
        check: Check::Apart(
            "what an idle agent holds is mostly pages of its program, and an unoptimised one is twice the size: \
             cargo verify --full --part idle",
        ),
    },
];

/// What `--full` runs, all or the one of `--part NAME`: too long for every time. Each leaves its evidence.
const PARTS: &[Step] = &[
    Step {
        name: "idle",
        check: Check::LabReleased(&["story", "an-idle-mesh-costs-little", "--real-runner"]),
    },
    Step {
        name: "fuzz",
        check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "fuzz", "--", "--seconds", "600"]),
    },
    Step {
        name: "schedules",
        check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "sim", "--", "--schedules", "100000"]),
    },
    Step {
        name: "mutations",
        check: Check::Cargo(&["run", "-q", "--profile", "sim", "-p", "sim", "--", "--mutations"]),
    },
    Step {
        name: "explore",
        check: Check::Cargo(&[
            "test",
            "-q",
            "--lib",
            "election::tests::explore",
            "--",
            "--ignored",
            "--nocapture",
        ]),
    },
    Step { name: "times", check: Check::LabReleased(&["story", "a-boot-is-quick", "--real-runner"]) },
    Step { name: "lease", check: Check::Lease },
    Step { name: "static", check: Check::Script("image/build-static", &[]) },
    Step { name: "aarch64", check: Check::Script("image/build-static", &["--arch", "aarch64"]) },
    Step { name: "builds", check: Check::Script("image/compare-builds", &[]) },
    Step { name: "image", check: Check::Script("image/check-image", &[]) },
    Step { name: "qemu", check: Check::Cargo(&["run", "-q", "-p", "qemu"]) },
    Step { name: "bench", check: Check::LabReleased(&["bench", "--vxlan", "--pods", "--output", "json"]) },
    Step { name: "micro", check: Check::Cargo(&["run", "-q", "--release", "-p", "micro"]) },
    Step {
        name: "soak",
        check: Check::Cargo(&[
            "test",
            "-q",
            "--lib",
            "data_plane::soak",
            "--",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]),
    },
    Step {
        name: "servers",
        check: Check::Lab(&["story", "seven-machines-have-three-servers-and-one-lead", "--real-runner"]),
    },
    Step { name: "masters", check: Check::Lab(&["story", "forced-masters-a-minute-apart", "--real-runner"]) },
];

/// No single check may take longer: a hang must not eat the time of all others.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The same for a part.
const PART_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Lines of a failed check's output that are shown.
const TAIL: usize = 60;

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

struct Row {
    name: &'static str,
    seconds: f64,
    verdict: Verdict,
}

/// Which checks.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// Those of every change, or the one of this name.
    Always(Option<&'a str>),
    /// The parts that take long, or the one of this name.
    Full(Option<&'a str>),
}

impl<'a> Wanted<'a> {
    /// As the flags say: `--only NAME`, or `--full [--part NAME]`.
    pub fn new(full: bool, only: Option<&'a str>, part: Option<&'a str>) -> Result<Self> {
        match (full, only, part) {
            (true, None, part) => Ok(Self::Full(part)),
            (false, only, None) => Ok(Self::Always(only)),
            _ => bail!("use --only NAME for one check, or --full with or without --part NAME"),
        }
    }
}

/// Runs the checks; gives the exit code.
pub fn run(target: &Path, wanted: Wanted<'_>) -> Result<i32> {
    let steps = chosen(wanted)?;
    let logs = target.join("verify");
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    let signals = Signals::hold()?;
    let begin = Instant::now();
    let mut rows = Vec::new();
    for step in steps {
        println!("== {} ...", step.name);
        let start = Instant::now();
        let log = logs.join(format!("{}.log", step.name));
        let limit = match wanted {
            Wanted::Always(_) => LIMIT,
            Wanted::Full(_) => PART_LIMIT,
        };
        let verdict = check(step, &log, &signals, limit)?;
        let row = Row { name: step.name, seconds: start.elapsed().as_secs_f64(), verdict };
        tell(&row, &log);
        if let (Wanted::Full(_), Verdict::Passed | Verdict::Failed(_)) = (wanted, &row.verdict) {
            let passed = matches!(row.verdict, Verdict::Passed);
            evidence::keep(row.name, passed, row.seconds, &fs::read_to_string(&log).unwrap_or_default())?;
        }
        rows.push(row);
    }
    println!();
    for row in &rows {
        println!("{:16} {:>7.1} s  {}", row.name, row.seconds, words(&row.verdict));
    }
    println!("{:16} {:>7.1} s", "all", begin.elapsed().as_secs_f64());
    println!("{}", tally(&rows));
    Ok(i32::from(rows.iter().any(|row| matches!(row.verdict, Verdict::Failed(_)))))
}

fn chosen(wanted: Wanted<'_>) -> Result<Vec<&'static Step>> {
    let (table, name) = match wanted {
        Wanted::Always(name) => (STEPS, name),
        Wanted::Full(name) => (PARTS, name),
    };
    let Some(name) = name else { return Ok(table.iter().collect()) };
    let steps: Vec<_> = table.iter().filter(|step| step.name == name).collect();
    let names: Vec<_> = table.iter().map(|step| step.name).collect();
    ensure!(!steps.is_empty(), "there is no check called {name}; there are: {}", names.join(" "));
    Ok(steps)
}

fn check(step: &Step, log: &Path, signals: &Signals, limit: Duration) -> Result<Verdict> {
    let mut command = match step.check {
        Check::Cargo(args) => cargo(args),
        Check::Tests(name) => {
            if !has_tests(name)? {
                return Ok(Verdict::Skipped(format!("there is no tests/{name} yet")));
            }
            cargo(&["test", "-q", "--workspace", "--exclude", "sim", "--test", name])
        }
        Check::Script(path, args) => {
            let mut command = Command::new(product::tree().join(path));
            command.args(args).current_dir(product::tree());
            command
        }
        Check::Lab(args) => {
            let mut command = Command::new(product::ours()?);
            command.args(args);
            command
        }
        Check::LabReleased(args) => {
            let mut command = Command::new(product::ours()?);
            command.args(args).arg("--binary").arg(product::released()?);
            command
        }
        Check::Lease => {
            let mut command = cargo(&["test", "-q", "--lib", "kube::", "--", "--ignored"]);
            command.env("C3OS_TEST_APISERVER", tools::apiserver()?).env("C3OS_TEST_ETCD", tools::etcd()?);
            command
        }
        Check::Deny => match tools::cargo_deny() {
            Ok(program) => {
                // It looks at the crates of all platforms, of which a build fetches those of this one. Without a network
                // they may be there all the same.
                let _ = cargo(&["fetch", "-q", "--locked"]).status();
                let mut command = Command::new(program);
                command.current_dir(product::tree());
                command.args(["--offline", "--workspace", "--config", ".deny.toml", "check"]);
                command.args(["bans", "licenses", "sources"]);
                command
            }
            Err(error) => return Ok(Verdict::Skipped(format!("{error:#}").replace('\n', " "))),
        },
        Check::Schema => {
            let mut command = Command::new(product::binary(None)?);
            command.arg("schema");
            command
        }
        Check::Examples => match tools::schema_checker() {
            Ok(mut command) => {
                command.args(["--schemafile", SCHEMA]).args(examples()?).current_dir(product::tree());
                command
            }
            Err(error) => return Ok(Verdict::Skipped(format!("{error:#}").replace('\n', " "))),
        },
        Check::Apart(why) => return Ok(Verdict::Skipped(why.to_owned())),
    };
    let file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    command.stdout(file.try_clone().context("a log")?).stderr(file).stdin(std::process::Stdio::null());
    match signals.run(&mut command, limit)? {
        End::TimedOut => Ok(Verdict::Failed(format!("not done after {} min", limit.as_secs() / 60))),
        End::Exited(status) if !status.success() => Ok(Verdict::Failed(status.to_string())),
        End::Exited(_) if matches!(step.check, Check::Schema) => compare_schema(log),
        End::Exited(_) => Ok(Verdict::Passed),
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = product::cargo();
    cargo.args(args);
    cargo
}

fn has_tests(name: &str) -> Result<bool> {
    let output =
        cargo(&["metadata", "--no-deps", "--format-version", "1"]).output().context("starting cargo")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    Ok(targets.filter(|target| target["kind"][0] == "test").any(|target| target["name"] == name))
}

/// The example configurations, by name.
fn examples() -> Result<Vec<PathBuf>> {
    let dir = product::tree().join("cloud-config-schema");
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    ensure!(!files.is_empty(), "{} has no examples", dir.display());
    Ok(files)
}

fn compare_schema(log: &Path) -> Result<Verdict> {
    let printed = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let path = product::tree().join(SCHEMA);
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if kept.trim() == printed.trim() {
        return Ok(Verdict::Passed);
    }
    let mut file = File::options().append(true).open(log).context("a log")?;
    writeln!(file, "\n{SCHEMA} differs from the above; renew it: cargo run -- schema > {SCHEMA}")
        .context("a log")?;
    Ok(Verdict::Failed(format!("{SCHEMA} is not what the types give")))
}

/// Says how a check went; of a failed one shows the end of what it said, of tests their own closing lines.
fn tell(row: &Row, log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    if let Verdict::Failed(_) = row.verdict {
        let lines: Vec<_> = text.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        println!("   all of it: {}", log.display());
    } else {
        for line in text.lines().filter(|line| is_closing(line)) {
            println!("{line}");
        }
    }
    println!("== {} {:.1} s: {}", row.name, row.seconds, words(&row.verdict));
}

/// Whether a line is how a test runner closes.
fn is_closing(line: &str) -> bool {
    line.starts_with("test result: ")
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Passed => "passed".to_owned(),
        Verdict::Failed(why) => format!("FAILED ({why})"),
        Verdict::Skipped(why) => format!("skipped ({why})"),
    }
}

fn tally(rows: &[Row]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| rows.iter().filter(|row| wanted(&row.verdict)).count();
    format!(
        "{} passed, {} failed, {} skipped",
        count(|verdict| matches!(verdict, Verdict::Passed)),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped(_))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: Verdict) -> Row {
        Row { name: "x", seconds: 1.0, verdict }
    }

    #[test]
    fn the_last_line_counts_every_check_once() {
        let rows = [
            row(Verdict::Passed),
            row(Verdict::Passed),
            row(Verdict::Failed("no".to_owned())),
            row(Verdict::Skipped("none".to_owned())),
        ];
        assert_eq!(tally(&rows), "2 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn checks_have_names_of_their_own_and_a_wrong_name_lists_them() {
        // A check that is too long for every time stands in both tables.
        for table in [STEPS, PARTS] {
            let names: std::collections::BTreeSet<_> = table.iter().map(|step| step.name).collect();
            assert_eq!(names.len(), table.len());
        }
        let Err(error) = chosen(Wanted::Always(Some("nothing"))) else { panic!("there is no such check") };
        assert!(error.to_string().contains("format purity lint"));
        assert_eq!(chosen(Wanted::Always(Some("unit"))).unwrap().len(), 1);
        assert_eq!(chosen(Wanted::Full(None)).unwrap().len(), PARTS.len());
        assert!(Wanted::new(false, None, Some("idle")).is_err());
    }
}
