//! Where the configuration is.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{HostError, Mode, Root, state::hex};
use crate::config::{self, AtBoot, MAX_FILE_BYTES, Parsed, Source, TokenText};

/// Where configuration is looked for, in the order in which it is merged.
pub(super) const DIRECTORIES: [&str; 3] = ["/system/oem", "/oem", "/usr/local/cloud-config"];
/// What a `cidata` drive holds in live mode, in yip's order; its names have no extension.
const SEED: [&str; 2] = ["/run/cidata/config", "/run/cidata/user-data"];
/// A token is 2 KiB at most.
const MAX_TOKEN_FILE: u64 = 64 * 1024;
/// More files, or deeper directories, are a mistake of somebody's.
const MAX_FILES: usize = 1000;
const MAX_DEPTH: usize = 8;

/// The configuration of this machine, as far as it can be read.
pub struct Loaded {
    /// What the files say, and what is wrong in them. A token that lies in a file of its own is in it.
    pub parsed: Parsed,
    /// Files that are there and could not be read.
    pub unreadable: Vec<HostError>,
    /// Changes when any of the files or the kernel's command line does.
    pub digest: [u8; 32],
}

/// Reads the configuration, from `directories` or from the usual places if there are none.
pub fn load_config(root: &Root, mode: Mode, directories: &[PathBuf]) -> Loaded {
    let found = discover(root, mode, directories);
    let command_line = kernel_arguments(root);
    let mut parsed = config::parse(&found.sources, &command_line);
    let mut digest = Sha256::new();
    for source in &found.sources {
        digest.update(source.path.as_bytes());
        digest.update((source.text.len() as u64).to_be_bytes());
        digest.update(&source.text);
    }
    digest.update(command_line.as_bytes());
    if let Some(path) = parsed.token_file.clone() {
        match token_from(root, &path) {
            Ok(token) => {
                digest.update(token.reveal().as_bytes());
                parsed.config.network_token = Some(token);
            }
            Err(error) => parsed.refuse("c3os.network_token_file", AtBoot::NoMesh, error.to_string(), None),
        }
    }
    Loaded { parsed, unreadable: found.unreadable, digest: digest.finalize().into() }
}

impl Loaded {
    /// Whether the configuration is another than when this was last asked since the machine booted, by whomever.
    ///
    /// # Errors
    /// [`HostError::File`] if that could not be remembered.
    pub fn is_news(&self, root: &Root) -> Result<bool, HostError> {
        let path = root.runtime("configuration");
        root.write_if_other(&path, format!("{}\n", hex(&self.digest)).as_bytes(), 0o644)
    }
}

/// The files that were found.
struct Discovered {
    /// In the order in which they are merged.
    sources: Vec<Source>,
    /// Files that are there and could not be read.
    unreadable: Vec<HostError>,
}

/// Where the configuration files are.
pub(super) fn files(root: &Root, mode: Mode, directories: &[PathBuf]) -> Vec<PathBuf> {
    discover(root, mode, directories).sources.into_iter().map(|source| PathBuf::from(source.path)).collect()
}

/// Reads the configuration files: those of `directories`, or of the usual places if there are none. Directories are
/// searched all the way down, in the order of paths, for `*.yaml` and `*.yml`.
fn discover(root: &Root, mode: Mode, directories: &[PathBuf]) -> Discovered {
    let mut paths = Vec::new();
    if directories.is_empty() {
        for directory in DIRECTORIES {
            walk(&root.path(directory), 0, &mut paths);
        }
        match mode {
            Mode::Live => {
                walk(&root.path("/run/cidata"), 0, &mut paths);
                paths.extend(SEED.iter().map(|path| root.path(path)).filter(|path| path.is_file()));
            }
            Mode::Installed | Mode::Recovery | Mode::AutoReset => {}
        }
    } else {
        for directory in directories {
            walk(directory, 0, &mut paths);
        }
    }
    let mut found = Discovered { sources: Vec::new(), unreadable: Vec::new() };
    for path in paths {
        match read_some(&path) {
            Ok(text) => found.sources.push(Source { path: path.display().to_string(), text }),
            Err(source) => found.unreadable.push(HostError::File { operation: "read", path, source }),
        }
    }
    found
}

/// The kernel's command line.
fn kernel_arguments(root: &Root) -> String {
    fs::read(root.path("/proc/cmdline"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Reads `c3os.network_token_file`.
fn token_from(root: &Root, path: &str) -> Result<TokenText, HostError> {
    let path = root.path(path);
    let failed = |source| HostError::File { operation: "read the token file", path: path.clone(), source };
    let mut text = String::new();
    File::open(&path).and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text)).map_err(failed)?;
    Ok(TokenText::new(text))
}

fn walk(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if depth > MAX_DEPTH || found.len() >= MAX_FILES {
        return;
    }
    if path.is_file() {
        // A file that somebody named is read whatever it is called.
        if depth == 0 || is_yaml(path) {
            found.push(path.to_owned());
        }
        return;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        walk(&entry, depth + 1, found);
    }
}

fn is_yaml(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// One byte more than allowed is enough for the reader to say that it is too large.
fn read_some(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[&str]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for file in files {
            let path = root.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, *file).unwrap();
        }
        (directory, root)
    }

    fn found(root: &Root, mode: Mode) -> Vec<String> {
        let sources = discover(root, mode, &[]).sources;
        sources.into_iter().map(|source| String::from_utf8(source.text).unwrap()).collect()
    }

    #[test]
    fn later_directories_come_later_and_only_live_systems_read_the_seed_drive() {
        let (_directory, root) = machine(&[
            "/usr/local/cloud-config/a.yaml",
            "/oem/99_last.yaml",
            "/oem/10_first.yml",
            "/oem/deeper/x.yaml",
            "/oem/notes.txt",
            "/oem/.hidden.yaml",
            "/system/oem/50.yaml",
            "/run/cidata/user-data",
            "/run/cidata/meta-data",
        ]);
        let installed = [
            "/system/oem/50.yaml",
            "/oem/10_first.yml",
            "/oem/99_last.yaml",
            "/oem/deeper/x.yaml",
            "/usr/local/cloud-config/a.yaml",
        ];
        assert_eq!(found(&root, Mode::Installed), installed);
        let mut live = installed.to_vec();
        live.push("/run/cidata/user-data");
        assert_eq!(found(&root, Mode::Live), live);
    }

    #[test]
    fn a_huge_file_is_read_no_further_than_it_takes_to_refuse_it() {
        let (_directory, root) = machine(&["/oem/a.yaml"]);
        fs::write(root.path("/oem/a.yaml"), vec![b'#'; 10_000_000]).unwrap();
        assert_eq!(discover(&root, Mode::Installed, &[]).sources[0].text.len(), MAX_FILE_BYTES + 1);
    }

    #[test]
    fn directories_that_contain_themselves_end() {
        let (_directory, root) = machine(&["/oem/a.yaml"]);
        std::os::unix::fs::symlink(root.path("/oem"), root.path("/oem/loop")).unwrap();
        assert!(discover(&root, Mode::Installed, &[]).sources.len() <= MAX_DEPTH + 1);
    }
}
