//! What a user would notice, by subject.

mod bad_files;
mod examples;
mod garbage;
mod merging;
mod old_keys;
mod settings;

use std::path::PathBuf;

use super::{Parsed, Source, parse};

/// One file at `/oem/config.yaml`.
fn one(text: &str) -> Parsed {
    parse(&[source("/oem/config.yaml", text)], "")
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.as_bytes().to_vec() }
}

/// What `validate` prints.
fn printed(parsed: &Parsed) -> String {
    parsed.mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
}

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names and bytes of the files of a directory that end in `ending`, by name.
fn files(directory: &str, ending: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(in_repository(directory)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(ending) {
            files.push((name, std::fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}
