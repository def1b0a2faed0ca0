//! Hostile bytes for every reader of the pure rooms: nothing panics, nothing takes long.
//!
//! `cargo fuzz` plays `--rounds N` mutants of the corpus to each target; `--target NAME` plays one, `--seconds S` goes on
//! for so long, `cargo fuzz NAME FILE` replays one input. What breaks a target is kept in `tests/fuzz/corpus/NAME/`, from
//! where it is played first ever after. The targets are plain functions, so that other fuzzers can drive them too.

#![expect(clippy::disallowed_methods, reason = "how long an input takes is asked of the real clock")]

mod corpus;
mod data_plane;
mod mutant;
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mutant::Mutator;
use targets::{TARGETS, Target};

/// An input of at most [`mutant::LONGEST`] bytes that takes longer is a way to stall a member.
const SLOW: Duration = Duration::from_secs(2);
/// Mutants per target without `--rounds` or `--seconds`.
const ROUNDS: u64 = 20_000;

struct Options {
    rounds: Option<u64>,
    seconds: Option<u64>,
    target: Option<String>,
    seed: u64,
    replay: Option<(String, String)>,
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { rounds: None, seconds: None, target: None, seed: 1, replay: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => options.rounds = Some(value()?.parse()?),
            "--seconds" => options.seconds = Some(value()?.parse()?),
            "--seed" => options.seed = value()?.parse()?,
            "--target" => options.target = Some(value()?),
            name if !name.starts_with('-') => options.replay = Some((name.to_owned(), value()?)),
            other => {
                bail!("{other}: use [--target NAME] [--rounds N | --seconds S] [--seed N], or NAME FILE")
            }
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<bool> {
    if let Some((name, file)) = &options.replay {
        let target = chosen(Some(name))?[0];
        let input = std::fs::read(file).with_context(|| format!("reading {file}"))?;
        return Ok(tell(target, &input, play(target, &input)));
    }
    let targets = chosen(options.target.as_deref())?;
    let each = options.seconds.map(|seconds| Duration::from_secs(seconds) / targets.len() as u32);
    let mut sound = true;
    for target in targets {
        sound &= fuzz(target, options, each)?;
    }
    Ok(sound)
}

fn chosen(name: Option<&str>) -> Result<Vec<&'static Target>> {
    let fits: Vec<_> = TARGETS.iter().filter(|target| name.is_none_or(|name| name == target.name)).collect();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    ensure!(!fits.is_empty(), "there is no such target; there are {}", names.join(" "));
    Ok(fits)
}

/// Plays the corpus, then mutants of it.
fn fuzz(target: &'static Target, options: &Options, each: Option<Duration>) -> Result<bool> {
    let seeds = corpus::of(target)?;
    let begin = Instant::now();
    let rounds = options.rounds.unwrap_or(if each.is_some() { u64::MAX } else { ROUNDS });
    let mut mutator = Mutator::new(options.seed, target.name);
    let mut played = 0;
    let mut inputs = seeds.iter().cloned();
    while played < rounds && each.is_none_or(|each| begin.elapsed() < each) {
        let input = inputs.next().unwrap_or_else(|| mutator.mutant(&seeds));
        let outcome = play(target, &input);
        if outcome.is_err() {
            let kept = corpus::keep(target, &input)?;
            eprintln!("kept as {}; replay: cargo fuzz {} {}", kept.display(), target.name, kept.display());
            return Ok(tell(target, &input, outcome));
        }
        played += 1;
    }
    println!("{:12} {played} inputs, {:.1} s: sound", target.name, begin.elapsed().as_secs_f64());
    Ok(true)
}

fn play(target: &Target, input: &[u8]) -> Result<(), String> {
    let begin = Instant::now();
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|_| "it panicked".to_owned())?;
    let taken = begin.elapsed();
    if taken > SLOW { Err(format!("it took {:.1} s", taken.as_secs_f64())) } else { Ok(()) }
}

fn tell(target: &Target, input: &[u8], outcome: Result<(), String>) -> bool {
    match &outcome {
        Ok(()) => println!("{}: {} bytes: sound", target.name, input.len()),
        Err(why) => println!("{}: {} bytes: {why}", target.name, input.len()),
    }
    outcome.is_ok()
}
