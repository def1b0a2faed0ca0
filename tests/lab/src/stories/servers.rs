//! Several servers: who they are, and who leads them. The sample k3s of a server runs Kubernetes' own API server here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Stage, pass, refs, unchanged};
use crate::cluster::{Cluster, until};
use crate::product::Status;
use crate::{require, tools};

/// Servers join one at a time, and an API server takes its time to start on a machine that runs three of them.
const LONG: Duration = Duration::from_secs(300);
/// Where the sample k3s looks for its API server, in the image.
const API: &str = "usr/libexec/lab/api";
/// As k3s has it: client certificates of its own CA, an administrator in `system:masters`.
const CERTIFICATES: &str = "set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=k3s-server-ca -keyout ca.key -out ca.crt
sign() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj \"$2\" -keyout $1.key -out $1.csr
    echo \"subjectAltName=DNS:localhost,IP:127.0.0.1\" >$1.ext
    openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile $1.ext -out $1.crt
}
sign server /CN=kube-apiserver
sign admin /O=system:masters/CN=system:admin
openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
openssl ec -in accounts.key -pubout -out accounts.pub
";

/// Seven machines, three of them servers: the lead's death makes another one lead, and nothing else.
pub(super) fn seven(stage: &mut Stage) -> Result<()> {
    lay_api(stage)?;
    let names = stage.names();
    let nodes = refs(&names);
    stage.lab.boot(&nodes)?;
    let before = three_servers(stage, &nodes)?;
    stage.all_reach_all(&nodes, &before)?;

    let (first, epoch) = reign(&before[0])?;
    let dead = before.iter().position(|view| view.id == first).context("the lead is none of the machines")?;
    ensure!(before[dead].assigned.as_deref() == Some("master"), "the lead is no server");
    let (here, were): (Vec<_>, Vec<_>) =
        (0..nodes.len()).filter(|node| *node != dead).map(|node| (nodes[node], before[node].clone())).unzip();
    stage.lab.kill(&[nodes[dead]])?;
    let led = stage.lab.wait_for(&here, "another server leads, in a later epoch", LONG, &mut |views| {
        views.iter().all(|view| reign(view).is_ok_and(|(lead, later)| lead != first && later > epoch))
    })?;
    // Long enough for somebody to be made a server, if anybody were to be.
    pass(Duration::from_secs(15))?;
    let settled = stage
        .lab
        .wait_for(&here, "roles applied", LONG, &mut |views| views.iter().all(|view| view.in_place))?;
    unchanged(&were, &settled)?;
    ensure!(settled[0].servers == before[0].servers, "a dead server was replaced by itself");

    stage.lab.boot(&[nodes[dead]])?;
    let after = three_servers(stage, &nodes)?;
    unchanged(&before, &after)?;
    ensure!(reign(&after[0])?.0 == reign(&led[0])?.0, "the old lead came back and leads again");

    stage.lab.kill(&nodes)?;
    for node in nodes.iter().rev() {
        stage.lab.boot(&[node])?;
    }
    let again = three_servers(stage, &nodes)?;
    unchanged(&before, &again)?;
    stage.all_reach_all(&nodes, &again)
}

/// Waits until there are three servers and four workers, all of one cluster, and everybody says so.
fn three_servers(stage: &Stage, nodes: &[&str]) -> Result<Vec<Status>> {
    stage.lab.wait_for(nodes, "three servers, four workers, one cluster, one lead", LONG, &mut |views| {
        let servers = views.iter().filter(|view| view.assigned.as_deref() == Some("master")).count();
        let alike = views.iter().all(|view| {
            let same = |one: &Status| (one.cluster_id.clone(), one.lead.clone(), one.servers.clone());
            view.in_place && view.live_others() + 1 == nodes.len() && same(view) == same(&views[0])
        });
        servers == 3 && alike && views[0].servers.len() == 3 && views[0].lead.is_some()
    })
}

/// Who leads, and since which epoch.
fn reign(view: &Status) -> Result<(String, u64)> {
    Ok((view.lead.clone().context("nobody leads")?, view.epoch.context("no epoch")?))
}

/// Puts what a sample k3s needs for an API server into the image, and starts the etcd on the laptop.
fn lay_api(stage: &mut Stage) -> Result<()> {
    let missing: Vec<_> =
        ["curl", "openssl"].into_iter().filter(|program| tools::on_path(program).is_none()).collect();
    require::packages(&missing)?;
    let (apiserver, etcd) = (tools::apiserver()?, tools::etcd()?);
    let api = stage.lab.image().join(API);
    fs::create_dir_all(&api).with_context(|| format!("making {}", api.display()))?;
    for (from, name) in [(&apiserver, "kube-apiserver"), (&etcd, "etcd")] {
        fs::copy(from, api.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    let made =
        Command::new("sh").arg("-c").arg(CERTIFICATES).current_dir(&api).output().context("openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr).trim());
    for key in ["server.key", "admin.key", "accounts.key"] {
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(api.join(key), private).with_context(|| format!("chmod {key}"))?;
    }
    stage.lab.boot(&["laptop"])?;
    let address =
        stage.lab.say("laptop", "ip -4 -o addr show dev eth0 | sed 's|.*inet \\([0-9.]*\\)/.*|\\1|'")?;
    let url = format!("http://{address}:2379");
    fs::write(api.join("etcd.url"), &url).context("etcd.url")?;
    let program = Path::new("/").join(API).join("etcd");
    let listen = ["--data-dir=/run/etcd", "--listen-client-urls", &url, "--advertise-client-urls", &url];
    let program = program.to_str().context("a path of ours")?;
    stage.lab.background("etcd", &[&["exec", "laptop", "--", program][..], &listen].concat())?;
    let up = until(LONG, || {
        Ok(stage.lab.run("laptop", &format!("curl -s {url}/health"))?.status.success().then_some(()))
    })?;
    ensure!(up.is_some(), "etcd does not come up");
    Ok(())
}
