//! k3s' files on a host, compared with the reviewed ones in `tests/fixture/k3s`: equal but for names, addresses, secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::InLab;
use crate::dir::Init;
use crate::product::{self, Status};

/// The node, its address, and its server's address in the reviewed files.
const REVIEWED: [(&str, &str); 3] = [("node-a", "NODE"), ("10.1.22.7", "ADDRESS"), ("10.1.3.4", "SERVER")];

/// Compares one node's files with those of its role; the number of files compared.
pub fn compare(lab: &InLab, init: Init, node: &str, view: &Status, master: &Status) -> Result<usize> {
    let situation = match (view.assigned.as_deref(), init) {
        (Some("master"), Init::Systemd) => "server",
        (Some("master"), Init::Openrc) => "server-openrc",
        (Some("worker"), Init::Systemd) => "worker",
        (Some("worker"), Init::Openrc) => "worker-openrc-plain",
        (other, _) => bail!("{node} has the role {other:?}"),
    };
    let reviewed = product::tree().join("tests/fixture/k3s").join(situation);
    let plan = reviewed.join("plan.txt");
    let plan = fs::read_to_string(&plan).with_context(|| format!("reading {}", plan.display()))?;
    let address = |view: &Status| view.ipv4.clone().unwrap_or_default();
    let (own, server) = (address(view), address(master));
    let here = [(view.name.as_str(), "NODE"), (own.as_str(), "ADDRESS"), (server.as_str(), "SERVER")];
    let mut compared = 0;
    for line in plan.lines() {
        match line.split_once(' ').context("plan.txt")? {
            ("remove", path) => {
                let there = lab.kept(node, path)?.symlink_metadata().is_ok();
                ensure!(!there, "{node}: {path} is not for a {situation}");
            }
            ("unit" | "wait", _) => {}
            (mode, path) => {
                let expected = reviewed.join(path.trim_start_matches('/'));
                same(&lab.kept(node, path)?, mode, &here, &expected)
                    .with_context(|| format!("{node}: {path}"))?;
                compared += 1;
            }
        }
    }
    Ok(compared)
}

fn same(file: &Path, mode: &str, here: &[(&str, &str)], expected: &Path) -> Result<()> {
    let text = fs::read_to_string(file).context("it is missing")?;
    let has = format!("{:04o}", fs::metadata(file).context("its mode")?.permissions().mode() & 0o7777);
    ensure!(has == mode, "its mode is {has} and should be {mode}");
    let wanted = fs::read_to_string(expected).with_context(|| format!("reading {}", expected.display()))?;
    if file.to_string_lossy().ends_with("-token") {
        // Only the form of a secret is compared, and it is not shown.
        ensure!(form(&text) == form(&wanted), "it has not the form of {}", expected.display());
        return Ok(());
    }
    let (text, wanted) = (replaced(&text, here), replaced(&wanted, &REVIEWED));
    ensure!(text == wanted, "it differs from {}:\n{text}\n-- instead of --\n{wanted}", expected.display());
    Ok(())
}

fn replaced(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(
        text.to_owned(),
        |text, (name, word)| {
            if name.is_empty() { text } else { whole_words(&text, name, word) }
        },
    )
}

/// Replaces `name` where it is not part of a longer word: `n1` is in `json1`, too.
fn whole_words(text: &str, name: &str, by: &str) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '-';
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let alone = !before.chars().next_back().is_some_and(part) && !after.chars().next().is_some_and(part);
        out += before;
        out += if alone { by } else { name };
        rest = after;
    }
    out + rest
}

/// What a k3s token is made of: its kind, the length of its CA hash, its user.
fn form(token: &str) -> String {
    match token.trim().split_once("::") {
        Some((hash, secret)) => {
            let user = secret.split_once(':').map_or("", |(user, _)| user);
            format!("{} {} {user}", hash.get(..3).unwrap_or_default(), hash.len())
        }
        None => format!("plain, {}", if token.trim().is_empty() { "empty" } else { "there" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_left_out_of_the_comparison_and_nothing_else() {
        let text = replaced(
            "node-name: \"n1\"\nx: json1\nip: 10.1.2.3\n",
            &[("n1", "NODE"), ("10.1.2.3", "ADDRESS")],
        );
        assert_eq!(text, "node-name: \"NODE\"\nx: json1\nip: ADDRESS\n");
        let hash = "a".repeat(64);
        assert_eq!(form(&format!("K10{hash}::node:secret\n")), "K10 67 node");
        assert_ne!(form(&format!("K10{hash}::server:secret")), form(&format!("K10{hash}::node:secret")));
        assert_ne!(form("secret"), form(""));
    }
}
