//! What people and members ask of the running agent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{
    agent::Agent,
    handle::{Call, Command, Control, LedgerLine, Refusal, RefusalKind, Reply},
    membership::Membership,
};
use crate::{
    config::NetworkId,
    election::{ClusterId, Role},
    host,
    identity::NodeId,
    k3s::kubeconfig,
    kube::Connection,
    mesh::{Mesh, RequestKind},
    node::{
        self, Observed, named_counters,
        snapshot::{Member, Path, PathKind, Problem, Severity, Snapshot},
    },
    tunnel::{Endpoint, PeerState},
};

/// What one member asks another to do.
#[derive(Debug, Serialize, Deserialize)]
enum MemberCommand {
    SetRole { node: NodeId, role: Role },
    Membership(Membership),
}

/// How long somebody who wants a role waits for it to hold. The asker's own patience is longer.
const HOLDS_WITHIN: Duration = Duration::from_secs(20);

/// How an answer gets to whoever asked.
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send + Sync>;

/// Somebody waits for a role to hold.
pub(super) struct Asked {
    node: NodeId,
    role: Role,
    until: Instant,
    answer: Answer,
}

impl Asked {
    /// When it is told why it does not hold yet.
    pub(super) fn due(&self) -> Instant {
        self.until
    }
}

/// What members say to each other on a request: JSON, since it is rare and may grow.
pub(super) fn encode(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers are plain data")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::new(RefusalKind::Failed, format!("the answer cannot be read: {error}")))
}

impl Agent {
    pub(super) async fn answer(&mut self, call: Call, control: &Control) {
        if let Some(wanted) = Membership::of(&call.command) {
            return self.change_membership(wanted, call);
        }
        match call.command.clone() {
            Command::Look => {
                control.show(Arc::new(self.picture().await));
                call.answer(Ok(Reply::Done));
            }
            Command::Ping { node } => self.ping(node, call),
            Command::SetRole { node, role } => self.set_role(node, role, call),
            Command::JoinCluster { cluster_id } => self.join_cluster(cluster_id, call).await,
            Command::Refound => call.answer(self.command(node::Command::Refound).map(|()| Reply::Done)),
            Command::Kubeconfig { network_id } => self.fetch_kubeconfig(network_id, call),
            Command::Ledger => call.answer(Ok(Reply::Ledger(self.ledger_lines()))),
            // The loop, or the lead, has taken it.
            Command::Reload
            | Command::Reset { .. }
            | Command::Rotate
            | Command::Remove { .. }
            | Command::Ban { .. } => call.answer(Ok(Reply::Done)),
        }
    }

    fn ping(&self, node: NodeId, call: Call) {
        let Some(data) = self.parts.data.clone() else {
            return call.answer(Err(Refusal::new(RefusalKind::Failed, "this machine has no data plane")));
        };
        if !self.members.contains_key(&node) {
            return call
                .answer(Err(Refusal::new(RefusalKind::NotFound, format!("no member has the id {node}"))));
        }
        tokio::spawn(async move {
            let answer = data.ping(node).await;
            call.answer(match answer {
                Ok(round_trip) => Ok(Reply::Pong(round_trip)),
                Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
            });
        });
    }

    fn set_role(&mut self, node: NodeId, role: Role, call: Call) {
        let Some(lead) = self.parts.node.lead_of_cluster() else {
            let reason = "there is no cluster yet; set `c3os.role` in the machine's config.yaml";
            return call.answer(Err(Refusal::not_yet(reason)));
        };
        if lead == self.parts.node.id() {
            let answer: Answer = Box::new(|answer| call.answer(answer.map(|()| Reply::Done)));
            return self.set_role_as_lead(node, role, answer);
        }
        let mesh = self.parts.mesh.clone();
        tokio::spawn(async move {
            let command = encode(&MemberCommand::SetRole { node, role });
            let answer = ask::<()>(&mesh, lead, RequestKind::Command, command).await;
            call.answer(answer.map(|()| Reply::Done));
        });
    }

    /// Answers when the role holds, or why it does not yet.
    fn set_role_as_lead(&mut self, node: NodeId, role: Role, answer: Answer) {
        match self.command(node::Command::SetRole { node, role }) {
            Err(refusal) => answer(Err(refusal)),
            Ok(()) => self.asked.push(Asked { node, role, until: Instant::now() + HOLDS_WITHIN, answer }),
        }
    }

    fn command(&mut self, command: node::Command) -> Result<(), Refusal> {
        self.parts
            .node
            .handle_command(command, Instant::now())
            .map_err(|why| Refusal::new(RefusalKind::NotAllowed, why))
    }

    /// Answers those whose role holds now, and those who have waited for long enough.
    pub(super) fn answer_asked(&mut self) {
        let now = Instant::now();
        for asked in std::mem::take(&mut self.asked) {
            match self.parts.node.role_holds(asked.node, asked.role, now) {
                Ok(()) => (asked.answer)(Ok(())),
                Err(why) if now >= asked.until => {
                    let reason = format!("the lead has taken it up, and it does not hold yet: {why}");
                    (asked.answer)(Err(Refusal::not_yet(reason)));
                }
                Err(_) => self.asked.push(asked),
            }
        }
    }

    /// Goes to another cluster. A server first asks its API whether it still runs workload.
    async fn join_cluster(&mut self, cluster_id: ClusterId, call: Call) {
        let serves = self.parts.node.snapshot().cluster.servers.contains(&self.parts.node.id());
        if serves {
            let idle = match host::kubeconfig(&self.parts.root) {
                Ok(Some(text)) => match Connection::new(&text) {
                    Ok(api) => api.is_idle().await.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Ok(None) => Err("k3s has written no kubeconfig".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let idle = idle.unwrap_or_else(|error| {
                tracing::warn!(%error, "Whether the cluster runs workload is not known");
                false
            });
            self.parts.node.handle_observed(Observed::Idle(idle), Instant::now());
        }
        call.answer(self.command(node::Command::Join { cluster_id }).map(|()| Reply::Done));
    }

    /// What another member asks of us.
    pub(super) fn carry_out_for_member(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        reply: oneshot::Sender<Vec<u8>>,
    ) {
        // Who asked may have given up.
        let refuse =
            |reply: oneshot::Sender<Vec<u8>>, refusal| drop(reply.send(encode(&Err::<(), _>(refusal))));
        let command = self.may_command(from).and_then(|()| decode(bytes));
        match command {
            Ok(MemberCommand::SetRole { node, role }) => {
                self.set_role_as_lead(node, role, Box::new(move |answer| drop(reply.send(encode(&answer)))));
            }
            Ok(MemberCommand::Membership(wanted)) => {
                self.change_as_lead(wanted, move |outcome| drop(reply.send(encode(&outcome))));
            }
            Err(refusal) => refuse(reply, refusal),
        }
    }

    fn fetch_kubeconfig(&self, network_id: Option<NetworkId>, call: Call) {
        let snapshot = self.parts.node.snapshot();
        let server = match find_server(&snapshot, network_id.as_ref()) {
            Ok(server) => server,
            Err(refusal) => return call.answer(Err(refusal)),
        };
        let Some(address) = server.ipv4 else {
            return call.answer(Err(Refusal::not_yet(format!("{} has no address yet", server.name))));
        };
        let name = format!("c3os-{}", server.network_id);
        let rewrite = move |text: &str| {
            kubeconfig::rewrite(text, &address.to_string(), &name)
                .map(|text| Reply::Kubeconfig(Zeroizing::new(text)))
                .map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))
        };
        if server.id == self.parts.node.id() {
            return call.answer(self.own_kubeconfig(None).and_then(|text| rewrite(&text)));
        }
        let (mesh, id, name) = (self.parts.mesh.clone(), server.id, server.name.clone());
        tokio::spawn(async move {
            let answer = ask::<String>(&mesh, id, RequestKind::Kubeconfig, vec![1]).await.map(Zeroizing::new);
            let answer =
                answer.map_err(|refusal| Refusal { reason: format!("{name}: {refusal}"), ..refusal });
            call.answer(answer.and_then(|text| rewrite(&text)));
        });
    }

    /// k3s' kubeconfig on this machine, for `asker` (none: somebody on this machine): with a certificate of its own where
    /// k3s' CA is at hand, else with the administrator's.
    pub(super) fn own_kubeconfig(&self, asker: Option<NodeId>) -> Result<String, Refusal> {
        if let (Some(asker), Some(admins)) = (asker, &self.parts.config.admin_peers)
            && !admins.contains(&asker)
        {
            let reason = format!("`c3os.admin_peers` does not name {asker}");
            return Err(Refusal::new(RefusalKind::NotAllowed, reason));
        }
        match host::kubeconfig(&self.parts.root) {
            Ok(Some(text)) => Ok(self.with_own_certificate(&text, asker).unwrap_or_else(|| text.to_string())),
            Ok(None) => Err(Refusal::not_yet(
                "k3s has written no kubeconfig yet: it is still starting, or not installed",
            )),
            Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
        }
    }

    fn with_own_certificate(&self, text: &str, asker: Option<NodeId>) -> Option<String> {
        let user = format!("c3os:{}", asker.unwrap_or(self.parts.node.id()));
        let own = match host::client_certificate(&self.parts.root, &user) {
            Ok(own) => own?,
            Err(error) => {
                tracing::warn!(%error, "The kubeconfig is given with the administrator's own certificate");
                return None;
            }
        };
        tracing::info!(user, "A client certificate for 30 days was made");
        kubeconfig::with_certificate(text, &own.certificate, &own.key)
            .inspect_err(|error| tracing::warn!(%error, "k3s' kubeconfig"))
            .ok()
    }

    fn ledger_lines(&self) -> Vec<LedgerLine> {
        self.parts
            .node
            .ledger()
            .with_prefix("")
            .map(|entry| {
                let key = entry.key().to_string();
                let secret = key.starts_with("secret/");
                LedgerLine {
                    author: entry.author(),
                    seq: entry.seq(),
                    value: if secret { None } else { crate::ledger::decode(entry.value()).ok() },
                    bytes: entry.to_bytes().len(),
                    key,
                }
            })
            .collect()
    }

    /// Shows a change to those who watch.
    pub(super) fn show_change(&mut self, control: &Control) {
        if self.parts.node.poll_shown() {
            let mut snapshot = self.parts.node.snapshot();
            self.add_problems(&mut snapshot);
            control.show(Arc::new(snapshot));
        }
    }

    /// The whole picture, with what only the driver sees.
    async fn picture(&self) -> Snapshot {
        let mut snapshot = self.parts.node.snapshot();
        self.add_problems(&mut snapshot);
        snapshot.counters.extend(named_counters("mesh", &self.parts.mesh.counters()));
        snapshot.counters.insert("ledger.faults_of_peers".to_owned(), self.faults_of_peers);
        snapshot.counters.insert("agent.uptime_seconds".to_owned(), self.running_since.elapsed().as_secs());
        if let Some(data) = &self.parts.data {
            let counters = data.counters();
            snapshot
                .counters
                .extend(counters.into_iter().map(|(name, count)| (format!("data.{name}"), count)));
            let names =
                |id| snapshot.members.iter().find(|member| member.id == id).map(|member| member.name.clone());
            snapshot.peers = data
                .peers()
                .await
                .into_iter()
                .map(|peer| path(&peer, names(peer.id).unwrap_or_default()))
                .collect();
        }
        snapshot
    }

    fn add_problems(&self, snapshot: &mut Snapshot) {
        snapshot.problems.extend(self.parts.problems.iter().cloned());
        snapshot.problems.extend(self.writes_failing.iter().map(|what| Problem {
            severity: Severity::Error,
            what: what.clone(),
            fix: "make room or mend the disk; until then this machine says nothing new".to_owned(),
        }));
        snapshot.problems.sort();
    }
}

fn path(peer: &PeerState, name: String) -> Path {
    Path {
        id: peer.id,
        name,
        kind: match peer.endpoint {
            Some(Endpoint::Udp(_)) => PathKind::Direct,
            Some(Endpoint::Stream(_)) => PathKind::Stream,
            None => PathKind::None,
        },
        endpoint: match peer.endpoint {
            Some(Endpoint::Udp(address)) => Some(address),
            Some(Endpoint::Stream(_)) | None => None,
        },
        rtt_us: peer.round_trip.map(|round_trip| round_trip.as_micros() as u64),
        loss_percent: peer.connected.then_some(peer.loss * 100.0),
        handshake_age_s: peer.last_handshake.map(|at| at.elapsed().as_secs()),
        sent_bytes: peer.traffic.sent_bytes,
        received_bytes: peer.traffic.received_bytes,
    }
}

/// The server to fetch a kubeconfig from.
fn find_server<'a>(snapshot: &'a Snapshot, wanted: Option<&NetworkId>) -> Result<&'a Member, Refusal> {
    let servers = || snapshot.members.iter().filter(|member| member.role == Some(Role::Server));
    let mut networks: Vec<&NetworkId> = servers().map(|server| &server.network_id).collect();
    networks.sort();
    networks.dedup();
    let network = match (wanted, networks.as_slice()) {
        (Some(wanted), _) => wanted,
        (None, [only]) => only,
        (None, []) => return Err(Refusal::not_yet("no cluster is there yet: no machine is its server")),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|id| id.as_str()).collect();
            let reason =
                format!("there are several clusters: say which with --network-id: {}", names.join(", "));
            return Err(Refusal::new(RefusalKind::NotFound, reason));
        }
    };
    let mut fitting = servers().filter(|server| server.network_id == *network);
    let first = servers().find(|server| server.network_id == *network && server.live);
    first.or_else(|| fitting.next()).ok_or_else(|| {
        Refusal::new(RefusalKind::NotFound, format!("no machine of network id {network} is a server"))
    })
}

/// Has the lead change who is a member.
pub(super) async fn ask_lead(mesh: &Mesh, lead: NodeId, wanted: Membership) -> Result<Vec<String>, Refusal> {
    ask(mesh, lead, RequestKind::Command, encode(&MemberCommand::Membership(wanted))).await
}

/// Asks a member, and unpacks its answer.
async fn ask<T: DeserializeOwned>(
    mesh: &Mesh,
    whom: NodeId,
    kind: RequestKind,
    question: Vec<u8>,
) -> Result<T, Refusal> {
    let answer = mesh
        .request(whom, kind, question)
        .await
        .map_err(|error| Refusal::new(RefusalKind::Failed, format!("{whom} cannot be asked: {error}")))?;
    decode::<Result<T, Refusal>>(&answer)?
}
