//! The product as the lab uses it: its binary, built or given, and its command line.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use serde_json::Value;

use crate::require::BUILT;

/// Our own program. A build of the workspace may have put a new one in its place while we run.
pub fn ours() -> Result<PathBuf> {
    let path = env::current_exe().context("our own program")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map(PathBuf::from).unwrap_or(path))
}

/// The top of the source tree.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program to test: the one given, else the one that cargo builds beside our own.
pub fn binary(given: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = given {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "--binary {}: there is no such file", path.display());
        return Ok(path);
    }
    let binary = ours()?.with_file_name("c3os");
    if env::var_os(BUILT).is_none() {
        let status = cargo()
            .args(["build", "--workspace", "--exclude", "sim", "--bin", "c3os"])
            .stdout(Stdio::null())
            .status()
            .context("starting cargo")?;
        ensure!(status.success(), "the product does not build");
    }
    ensure!(binary.is_file(), "{} is missing; build it: cargo build", binary.display());
    Ok(binary)
}

/// The program as it is released, built now.
pub fn released() -> Result<PathBuf> {
    let status =
        cargo().args(["build", "-q", "--release", "--bin", "c3os"]).status().context("starting cargo")?;
    ensure!(status.success(), "the product does not build as a release");
    let ours = ours()?;
    let target =
        ours.parent().and_then(Path::parent).context("our own program lies in no target directory")?;
    Ok(target.join("release/c3os"))
}

/// Cargo in the source tree; the one that runs us, if one does.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tree());
    // What the cargo that runs us says about our own package. Build scripts (ring's) would see it change and build anew.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name.starts_with("CARGO_BIN_")
        {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo
}

/// One config.yaml for `nodes` machines, with a new token in it.
pub fn create_config(binary: &Path, nodes: usize) -> Result<String> {
    let output = Command::new(binary)
        .args(["create-config", "--nodes", &nodes.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", binary.display()))?;
    ensure!(output.status.success(), "c3os create-config --nodes {nodes} failed ({})", output.status);
    String::from_utf8(output.stdout).context("c3os create-config")
}

/// What `c3os status --output json` tells of a node, as far as tests and the demo need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub id: String,
    pub name: String,
    /// Its addresses on the mesh.
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    /// `founding`, `founded`, `observing`, `conflict`, `amnesiac`.
    pub cluster_state: String,
    pub cluster_message: String,
    pub cluster_id: Option<String>,
    pub founder: Option<String>,
    /// Who leads it, and since when.
    pub lead: Option<String>,
    pub epoch: Option<u64>,
    /// Its servers, in the order in which they became it.
    pub servers: Vec<String>,
    /// `master` or `worker`: what the cluster decided.
    pub assigned: Option<String>,
    /// What this machine has applied.
    pub applied: Option<String>,
    /// The decided role is applied, and was seen to be so since the agent started.
    pub in_place: bool,
    pub unit: Option<String>,
    pub unit_state: Option<String>,
    pub members: Vec<Member>,
    /// What is wrong and what to do, in words.
    pub problems: Vec<String>,
    pub counters: BTreeMap<String, u64>,
}

/// Another member, as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub name: String,
    pub live: bool,
    pub role: Option<String>,
    pub ipv4: Option<String>,
}

impl Status {
    /// Reads what the verb printed.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("c3os status --output json")?;
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let (node, cluster, role) = (&value["node"], &value["cluster"], &value["role"]);
        let members = value["members"].as_array().into_iter().flatten();
        let problems = value["problems"].as_array().into_iter().flatten();
        let counters = value["counters"].as_object().into_iter().flatten();
        Ok(Self {
            id: word(&node["id"]).context("status has no node.id")?,
            name: word(&node["name"]).unwrap_or_default(),
            ipv4: word(&node["ipv4"]),
            ipv6: word(&node["ipv6"]),
            cluster_state: word(&cluster["state"]).context("status has no cluster.state")?,
            cluster_message: word(&cluster["message"]).unwrap_or_default(),
            cluster_id: word(&cluster["id"]),
            founder: word(&cluster["founder"]),
            lead: word(&cluster["lead"]),
            epoch: cluster["epoch"].as_u64(),
            servers: cluster["servers"].as_array().into_iter().flatten().filter_map(word).collect(),
            assigned: word(&role["assigned"]),
            applied: word(&role["applied"]),
            in_place: role["in_place"] == true,
            unit: word(&role["unit"]),
            unit_state: word(&role["unit_state"]),
            members: members
                .map(|member| Member {
                    id: word(&member["id"]).unwrap_or_default(),
                    name: word(&member["name"]).unwrap_or_default(),
                    live: member["live"] == true,
                    role: word(&member["role"]),
                    ipv4: word(&member["ipv4"]),
                })
                .collect(),
            problems: problems
                .map(|problem| {
                    format!(
                        "{}; {}",
                        problem["what"].as_str().unwrap_or_default(),
                        problem["fix"].as_str().unwrap_or_default()
                    )
                })
                .collect(),
            counters: counters.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect(),
        })
    }

    /// Members that are reachable now, this one not counted.
    pub fn live_others(&self) -> usize {
        self.members.iter().filter(|member| member.live && member.id != self.id).count()
    }

    /// How often something was refused or dropped, over all counters whose name begins so.
    pub fn counted(&self, beginnings: &[&str]) -> u64 {
        let counts = |name: &str| beginnings.iter().any(|beginning| name.starts_with(beginning));
        self.counters.iter().filter(|(name, _)| counts(name)).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_the_product_prints_it() {
        let text = r#"{"node":{"id":"12D3a","name":"n1","ipv4":"10.1.0.9","ipv6":"fd00::1"},
            "cluster":{"state":"founded","message":"","id":"c1","founder":"12D3a"},
            "role":{"setting":"auto","assigned":"master","applied":"master","in_place":true,"unit":"k3s","unit_state":"active"},
            "members":[{"id":"12D3a","name":"n1","live":true,"role":"master","ipv4":"10.1.0.9"},
                {"id":"12D3b","name":"n2","live":true,"role":"worker","ipv4":null}],
            "problems":[{"severity":"warning","what":"no k3s","fix":"install it"}],
            "counters":{"mesh.refused.other_token":2,"mesh.requests_refused":4,"data.short":1}}"#;
        let status = Status::parse(text).unwrap();
        assert!(status.in_place);
        assert_eq!(status.live_others(), 1);
        assert_eq!(status.problems, ["no k3s; install it"]);
        assert_eq!(status.counted(&["mesh.refused."]), 2);
        assert_eq!(Status::parse("{}").unwrap_err().to_string(), "status has no node.id");
    }
}
