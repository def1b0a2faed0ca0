//! What mutants are made of: inputs that are kept, and good ones of the day.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::targets::Target;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kept(target: &Target) -> PathBuf {
    tree().join("tests/fuzz/corpus").join(target.name)
}

/// Everything for `target`, in a fixed order: what once broke it first.
pub fn of(target: &Target) -> Result<Vec<Vec<u8>>> {
    let mut all = files(&kept(target))?;
    for directory in target.fixtures {
        all.extend(files(&tree().join(directory))?);
    }
    all.extend((target.good)());
    Ok(all)
}

/// Keeps an input that broke `target`; where.
pub fn keep(target: &Target, input: &[u8]) -> Result<PathBuf> {
    let directory = kept(target);
    let name: String = Sha256::digest(input).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = directory.join(name);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, input))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn files(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let found = match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut paths = found.with_context(|| format!("reading {}", directory.display()))?;
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| format!("reading {}", path.display()))).collect()
}
