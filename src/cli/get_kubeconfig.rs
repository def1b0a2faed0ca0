//! `c3os get-kubeconfig`: the way into the cluster, as a file for kubectl.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use zeroize::Zeroizing;

use super::ask::{Api, block_on};
use crate::{config::NetworkId, k3s::kubeconfig};

/// Prints the cluster's kubeconfig, with the server's address on the mesh. It opens the cluster: keep it secret.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
    /// Which cluster of the mesh; without it, the only one there is.
    #[arg(long, env = "C3OS_NETWORK_ID", value_name = "ID")]
    network_id: Option<NetworkId>,
    /// Write it to this file, which only its owner can read; `-` is stdout.
    #[arg(long, short, env = "C3OS_KUBECONFIG", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the other clusters of the file; without --output the file is $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "C3OS_MERGE")]
    merge: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let file = match args.output {
        Some(file) if file == Path::new("-") => None,
        None if args.merge => Some(usual_file().context("where is your kubeconfig? say it with --output")?),
        file => file,
    };
    anyhow::ensure!(file.is_some() || !args.merge, "--merge needs a file to merge into, not stdout");
    let client = args.api.client()?;
    let text = block_on(client.kubeconfig(args.network_id.as_ref()))??;
    anyhow::ensure!(
        !text.trim().is_empty(),
        "the agent gave an empty kubeconfig; `c3os status` shows what the server does"
    );
    let Some(file) = file else {
        io::stdout().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    let text = if args.merge { Zeroizing::new(kubeconfig::merge(&existing(&file)?, &text)?) } else { text };
    write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("Wrote {}", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Where kubectl looks.
fn usual_file() -> Option<PathBuf> {
    let listed = env::var_os("KUBECONFIG")
        .and_then(|list| env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    listed.or_else(|| env::home_dir().map(|home| home.join(".kube/config")))
}

fn existing(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Zeroizing::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Replaces the file, or the file that it is a link to, by one that only its owner can read; never leaves half of it.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let mut beside = file.clone().into_os_string();
    beside.push(format!(".{}", std::process::id()));
    let written =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut new| {
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, &file)
        });
    if written.is_err() {
        // What is left of a failed attempt; there may be nothing.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_even_if_it_was_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deeper/config");
        fs::create_dir(directory.path().join("deeper")).unwrap();
        fs::write(&file, "old").unwrap();
        write(&file, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("config"), directory.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }
}
