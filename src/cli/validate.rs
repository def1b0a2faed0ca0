//! `c3os validate`: every mistake of a configuration at once.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde_json::json;

use super::output::Output;
use crate::{
    config::{self, AtBoot, MAX_FILE_BYTES, Mistake, Parsed, Severity, Source},
    host::{self, Loaded, Root},
    token::NetworkToken,
};

/// Checks configuration files, and fails if a machine would not do what they say.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files or directories, merged in this order; `-` is stdin. Without any, what this machine would read.
    files: Vec<PathBuf>,
    /// Show each setting with the file it comes from.
    #[arg(long, env = "C3OS_EXPLAIN")]
    explain: bool,
    #[command(flatten)]
    output: Output,
    /// Directory that stands for the machine's `/`.
    #[arg(long, hide = true, default_value = "/", env = "C3OS_ROOT")]
    root: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Loaded { mut parsed, unreadable, .. } = load(&args)?;
    check_token(&mut parsed);
    let unread: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
    let errors = parsed.mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count();
    let data = json!({
        "ok": errors == 0 && unread.is_empty(),
        "mistakes": parsed.mistakes.iter().map(data).collect::<Vec<_>>(),
        "unreadable": unread,
        "settings": if args.explain { settings(&parsed) } else { serde_json::Value::Null },
    });
    args.output.print(&data, || {
        let mut text: String = unread.iter().map(|line| format!("{line}\n")).collect();
        text.extend(parsed.mistakes.iter().map(|mistake| format!("{mistake}\n")));
        if args.explain {
            text += &parsed.origins.to_string();
        }
        text
    })?;
    if errors > 0 || !unread.is_empty() {
        eprintln!("c3os: {} to mend", count(errors + unread.len()));
        return Ok(ExitCode::FAILURE);
    }
    if parsed.origins.iter().next().is_none() {
        eprintln!("c3os: nothing here is for c3os: the machine stays out of any mesh");
    } else if parsed.config.network_token.is_none() && parsed.token_file.is_none() {
        eprintln!("c3os: correct; without a c3os.network_token the machine stays out of any mesh");
    } else {
        eprintln!("c3os: correct");
    }
    Ok(ExitCode::SUCCESS)
}

fn load(args: &Args) -> anyhow::Result<Loaded> {
    if let [only] = args.files.as_slice()
        && only == Path::new("-")
    {
        let mut text = Vec::new();
        io::stdin().take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text).context("cannot read stdin")?;
        let parsed = config::parse(&[Source { path: "stdin".to_owned(), text }], "");
        return Ok(Loaded { parsed, unreadable: Vec::new(), digest: [0; 32] });
    }
    for file in &args.files {
        std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let root = Root::at(&args.root);
    Ok(host::load_config(&root, host::mode(&root), &args.files))
}

/// What only the token's own room can tell.
pub(super) fn check_token(parsed: &mut Parsed) {
    if let Some(token) = &parsed.config.network_token
        && let Err(error) = NetworkToken::parse(token.reveal())
    {
        parsed.refuse("c3os.network_token", AtBoot::NoMesh, error.to_string(), None);
    }
}

fn count(errors: usize) -> String {
    if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") }
}

fn data(mistake: &Mistake) -> serde_json::Value {
    json!({
        "file": mistake.file,
        "line": mistake.line,
        "column": mistake.column,
        "key": mistake.key,
        "severity": mistake.severity.to_string(),
        "at_boot": mistake.at_boot.to_string(),
        "message": mistake.message,
        "hint": mistake.hint,
    })
}

fn settings(parsed: &Parsed) -> serde_json::Value {
    let setting = |(key, origin): (&str, &config::Origin)| {
        let origin = json!({
            "value": origin.value,
            "file": origin.file,
            "line": origin.line,
            "written": origin.written,
            "overrides": origin.overrides,
        });
        (key.to_owned(), origin)
    };
    serde_json::Value::Object(parsed.origins.iter().map(setting).collect())
}
