//! The stand-in for a stage runner, on machines that have neither one nor Go: runs the commands of the stage files, and
//! says what it leaves out. `cargo verify` does not accept it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// `-s STAGE DIR..`, as yip takes it; gives the exit code.
pub fn run(words: &[String]) -> Result<i32> {
    let [flag, stage, dirs @ ..] = words else { bail!("expected -s STAGE DIR..") };
    if flag != "-s" {
        bail!("expected -s STAGE DIR..");
    }
    let mut failed = false;
    for dir in dirs {
        for file in stage_files(Path::new(dir))? {
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            match steps(&text, stage) {
                Ok(steps) => {
                    failed |= steps.iter().map(|step| step.run(&file)).fold(false, |any, ok| any | !ok)
                }
                Err(error) => {
                    println!("{}: {error:#}; left out", file.display());
                    failed = true;
                }
            }
        }
    }
    Ok(i32::from(failed))
}

/// The YAML files below a directory, in the order of their paths.
fn stage_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        if path.is_dir() {
            files.append(&mut stage_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    name: String,
    condition: Option<String>,
    commands: Vec<String>,
    /// Keys that only a real runner understands.
    others: Vec<String>,
}

/// The steps of one stage.
fn steps(text: &str, stage: &str) -> Result<Vec<Step>> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let mut steps = Vec::new();
    for step in value["stages"][stage].as_array().into_iter().flatten() {
        let known = ["name", "if", "commands"];
        let keys = step.as_object().into_iter().flat_map(|step| step.keys());
        steps.push(Step {
            name: word(&step["name"]).unwrap_or_else(|| "a step".to_owned()),
            condition: word(&step["if"]),
            commands: step["commands"].as_array().into_iter().flatten().filter_map(word).collect(),
            others: keys.filter(|key| !known.contains(&key.as_str())).cloned().collect(),
        });
    }
    Ok(steps)
}

impl Step {
    /// Runs all commands, also after one that fails; true when none did.
    fn run(&self, file: &Path) -> bool {
        if self.condition.as_deref().is_some_and(|condition| !shell(condition)) {
            return true;
        }
        if !self.others.is_empty() {
            println!(
                "{}, {}: {} left out; a real runner does it",
                file.display(),
                self.name,
                self.others.join(" ")
            );
        }
        let mut fine = true;
        for command in &self.commands {
            if !shell(command) {
                println!("{}, {}: `{command}` failed", file.display(), self.name);
                fine = false;
            }
        }
        fine
    }
}

fn shell(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_stage_are_read_and_what_is_left_out_is_known() {
        let text = "name: x\nstages:\n  boot:\n  - name: one\n    if: 'true'\n    commands: [echo a, echo b]\n    files: []\n";
        let step = Step {
            name: "one".to_owned(),
            condition: Some("true".to_owned()),
            commands: vec!["echo a".to_owned(), "echo b".to_owned()],
            others: vec!["files".to_owned()],
        };
        assert_eq!(steps(text, "boot").unwrap(), [step]);
        assert_eq!(steps(text, "network").unwrap(), []);
        assert!(steps("a: [", "boot").is_err());
    }
}
