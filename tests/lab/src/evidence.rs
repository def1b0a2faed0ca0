//! What a long check leaves behind: `tests/evidence/PART.json`, committed with the change that it speaks for.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::product;

/// Keeps what `part` came to. Its figures are the last line of its output that is a JSON object.
pub fn keep(part: &str, passed: bool, seconds: f64, output: &str) -> Result<()> {
    let dir = product::tree().join("tests/evidence");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(format!("{part}.json"));
    let evidence = json!({
        "part": part,
        "command": format!("cargo verify --full --part {part}"),
        "passed": passed,
        "seconds": seconds.round(),
        "commit": commit(),
        "machine": machine(),
        "figures": figures(output),
    });
    let text = serde_json::to_string_pretty(&evidence).context("evidence")?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

fn figures(output: &str) -> Value {
    let objects = output.lines().rev().filter(|line| line.starts_with('{'));
    objects.filter_map(|line| serde_json::from_str(line).ok()).next().unwrap_or(Value::Null)
}

/// The commit that was checked; `+` marks a tree with further changes.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(product::tree()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", ":!tests/evidence"])?;
    Some(git(&["rev-parse", "--short", "HEAD"])? + if changed.is_empty() { "" } else { "+" })
}

/// What the figures were taken on.
fn machine() -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    json!({
        "processor": model,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "memory_gib": kib.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib >> 20),
        "kernel": kernel.trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_last_json_object_of_the_output() {
        let output = "{\"a\":1}\nwords\n{\"b\":2}\n{broken\n1 passed, 0 failed\n";
        assert_eq!(figures(output), json!({ "b": 2 }));
        assert_eq!(figures("words"), Value::Null);
    }
}
