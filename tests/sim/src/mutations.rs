//! The protocol broken on purpose: whoever breaks it by accident is caught by the same rules.
//!
//! `mutations.txt` lists the ways. The product knows nothing of them: they are put into a copy of its pure rooms, each
//! behind a switch, the copy is built once, and each seed is played with one switch thrown.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The list: `mutation NAME SEED`, then, as often as needed, lines of code after `- ` and what they become after `+ `.
const LIST: &str = include_str!("../mutations.txt");
/// Which mutation is on, in a program that was built with all of them.
const SWITCH: &str = "SIM_MUTATION";
/// Stands in a replacement for the switch itself, where the code is not simply one thing or the other.
const MUTATED: &str = "MUTATED";

/// How many schedules are played for a mutation of which no seed is known.
const LOOKED_AT: u64 = 2_000;

/// One way to break the protocol.
struct Mutation<'a> {
    name: &'a str,
    /// The schedule that catches it; none is known yet if it is 0.
    seed: u64,
    changes: Vec<Change>,
}

#[derive(Default)]
struct Change {
    old: String,
    new: String,
}

fn list() -> Vec<Mutation<'static>> {
    let mut mutations: Vec<Mutation<'_>> = Vec::new();
    let mut within_new = true;
    for line in LIST.lines() {
        if let Some(rest) = line.strip_prefix("mutation ") {
            let (name, seed) = rest.split_once(' ').expect("a mutation has a name and a seed");
            let seed = seed.trim().parse().expect("a seed is a number");
            mutations.push(Mutation { name, seed, changes: Vec::new() });
            within_new = true;
            continue;
        }
        let Some(mutation) = mutations.last_mut() else { continue };
        let add = |text: &mut String, more: &str| {
            let separator = if text.is_empty() { "" } else { "\n" };
            *text = format!("{text}{separator}{more}");
        };
        if let Some(old) = line.strip_prefix("- ") {
            if std::mem::take(&mut within_new) {
                mutation.changes.push(Change::default());
            }
            mutation.changes.last_mut().into_iter().for_each(|change| add(&mut change.old, old));
        } else if let Some(new) = line.strip_prefix("+ ") {
            within_new = true;
            mutation.changes.last_mut().into_iter().for_each(|change| add(&mut change.new, new));
        }
    }
    mutations
}

impl Change {
    /// The code with the switch in it.
    fn switched(&self, name: &str) -> String {
        let Self { old, new } = self;
        let switch = format!("crate::is_mutated({name:?})");
        if new.contains(MUTATED) {
            new.replace(MUTATED, &switch)
        } else if old.trim_end().ends_with(';') {
            format!("if {switch} {{ {new} }} else {{ {old} }}")
        } else {
            format!("(if {switch} {{ {new} }} else {{ {old} }})")
        }
    }
}

/// Plays every mutation's seed, or looks for the first one below `until` that catches it; prints a line of JSON.
pub fn run(only: Option<&str>, until: Option<u64>) -> ExitCode {
    let program = match build() {
        Ok(program) => program,
        Err(why) => {
            eprintln!("sim: {why}");
            return ExitCode::FAILURE;
        }
    };
    let (mut all, mut missed) = (0, Vec::new());
    for mutation in list().iter().filter(|mutation| only.is_none_or(|only| only == mutation.name)) {
        all += 1;
        let name = mutation.name;
        let until = until.or((mutation.seed == 0).then_some(LOOKED_AT));
        let caught = match until {
            None => play(&program, name, &["--seed", &mutation.seed.to_string()]),
            Some(until) => play(&program, name, &["--schedules", &until.to_string(), "--until-one"]),
        };
        // What the unbroken protocol fails too says nothing.
        let seed = |line: &str| line.strip_prefix("seed ")?.split(':').next().map(str::to_owned);
        let caught = caught.filter(|line| {
            let seed = seed(line).unwrap_or_else(|| mutation.seed.to_string());
            play(&program, "", &["--seed", &seed]).is_none()
        });
        match caught {
            Some(what) => println!("{name}: caught: {what}"),
            None => {
                println!("{name}: NOT caught by seed {}", mutation.seed);
                missed.push(name);
            }
        }
    }
    println!("{{\"mutations\":{all},\"missed\":{missed:?}}}");
    if missed.is_empty() && all > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the mutated program says is wrong; none if it is content.
fn play(program: &Path, name: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).env(SWITCH, name).output().ok()?;
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let violation = said.lines().find(|line| line.contains("violation: "))?;
    (!output.status.success()).then(|| violation.chars().take(240).collect())
}

/// Builds the simulation around a copy of the pure rooms with all mutations in it.
fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("target");
    let copy = target.join("mutants");
    let failed = |what: &str, path: &Path| format!("{what} {}", path.display());
    let put = |path: &Path, text: &str| {
        // What has not changed keeps its time, and is not built again.
        if fs::read_to_string(path).is_ok_and(|now| now == text) {
            return Ok(());
        }
        let _ = path.parent().map(fs::create_dir_all);
        fs::write(path, text).map_err(|error| format!("{}: {error}", failed("writing", path)))
    };
    let mut files = Vec::new();
    for part in ["src", "tests/sim/src"] {
        sources(&root, Path::new(part), &mut files).map_err(|error| format!("reading {part}: {error}"))?;
    }
    for mutation in list() {
        for change in &mutation.changes {
            let mut found = files.iter_mut().filter(|(_, text)| text.contains(&change.old));
            let (Some((_, text)), None) = (found.next(), found.next()) else {
                return Err(format!("{}: this is not in exactly one file:\n{}", mutation.name, change.old));
            };
            if text.matches(&change.old).count() != 1 {
                return Err(format!("{}: this is there more than once:\n{}", mutation.name, change.old));
            }
            *text = text.replacen(&change.old, &change.switched(mutation.name), 1);
        }
    }
    for (path, text) in &mut files {
        if path == Path::new("src/lib.rs") {
            text.insert_str(0, "#![allow(warnings)]\n");
            text.push_str(&format!(
                "\n/// Whether this mutation is on.\npub(crate) fn is_mutated(name: &str) -> bool {{\n    \
                 static ON: std::sync::LazyLock<String> =\n        \
                 std::sync::LazyLock::new(|| std::env::var({SWITCH:?}).unwrap_or_default());\n    \
                 *ON == name\n}}\n"
            ));
        }
        put(&copy.join(path), text)?;
    }
    for manifest in
        ["Cargo.toml", "Cargo.lock", "tests/sim/Cargo.toml", "tests/sim/seeds.txt", "tests/sim/mutations.txt"]
    {
        let path = root.join(manifest);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", failed("reading", &path)))?;
        // Another name and version: cargo must not take what it built of one for the other.
        let (own, other) =
            ("name = \"c3os\"\nversion = \"0.1.0\"", "name = \"c3os\"\nversion = \"0.1.0-mutants\"");
        let text = text.replace("name = \"sim\"", "name = \"mutants\"").replace(own, other);
        put(&copy.join(manifest), &alone(&text))?;
    }
    let built = Command::new("cargo")
        .args(["build", "-q", "--offline", "--profile", "sim", "-p", "mutants", "--target-dir"])
        .arg(&target)
        .current_dir(&copy)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("starting cargo: {error}"))?;
    if built.success() {
        Ok(target.join("sim/mutants"))
    } else {
        Err("the mutated copy does not build".to_owned())
    }
}

/// A workspace's manifest with the simulation as its only other member.
fn alone(manifest: &str) -> String {
    let members = "members = [";
    let Some((before, rest)) = manifest.split_once(members) else { return manifest.to_owned() };
    let after = rest.split_once(']').map_or("", |(_, after)| after);
    format!("{before}{members}\"tests/sim\"]{after}")
}

fn sources(root: &Path, part: &Path, into: &mut Vec<(PathBuf, String)>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(part))? {
        let entry = entry?;
        let path = part.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            sources(root, &path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push((path.clone(), fs::read_to_string(root.join(path))?));
        }
    }
    Ok(())
}
