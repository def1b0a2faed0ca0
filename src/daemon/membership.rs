//! Who is a member, with which token: carrying out what the node and operators decide about it.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use zeroize::Zeroizing;

use super::{
    End,
    agent::Agent,
    handle::{Call, Command, Refusal, RefusalKind, Reply},
    questions,
};
use crate::{
    host::{self, Root},
    identity::NodeId,
    kube::Connection,
    node::{self, Observed, snapshot::Severity},
    token::Gate,
};

/// What is left to do, or was done, in sentences; or why nothing was.
type Outcome = Result<Vec<String>, Refusal>;

/// What one member asks the lead to do about members.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Membership {
    Rotate,
    Remove { node: NodeId },
    Ban { node: NodeId, keep_token: bool },
}

impl Membership {
    pub(super) fn of(command: &Command) -> Option<Self> {
        match command {
            Command::Rotate => Some(Self::Rotate),
            Command::Remove { node } => Some(Self::Remove { node: *node }),
            Command::Ban { node, keep_token } => Some(Self::Ban { node: *node, keep_token: *keep_token }),
            Command::SetRole { .. }
            | Command::JoinCluster { .. }
            | Command::Refound
            | Command::Ping { .. }
            | Command::Kubeconfig { .. }
            | Command::Ledger
            | Command::Look
            | Command::Reset { .. }
            | Command::Reload => None,
        }
    }
}

impl Agent {
    /// An operator on this machine wants to change who is a member: the lead does it, and `call` gets its answer.
    pub(super) fn change_membership(&mut self, wanted: Membership, call: Call) {
        let Some(lead) = self.parts.node.lead_of_cluster() else {
            let reason = "there is no cluster yet: only its lead changes who is a member";
            return call.answer(Err(Refusal::not_yet(reason)));
        };
        let reply = |outcome: Outcome| outcome.map(Reply::Said);
        if lead == self.parts.node.id() {
            self.change_as_lead(wanted, move |outcome| call.answer(reply(outcome)));
            return;
        }
        let mesh = self.parts.mesh.clone();
        tokio::spawn(async move { call.answer(reply(questions::ask_lead(&mesh, lead, wanted).await)) });
    }

    /// Does it, as the lead, and says how it went.
    pub(super) fn change_as_lead(
        &mut self,
        wanted: Membership,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let (command, dropped) = match wanted {
            Membership::Rotate => (node::Command::Rotate, None),
            Membership::Remove { node } => (node::Command::Remove { node }, Some(node)),
            Membership::Ban { node, keep_token } => (node::Command::Ban { node, keep_token }, Some(node)),
        };
        let name = dropped.and_then(|node| self.parts.node.kubernetes_name(node));
        if let Err(why) = self.parts.node.handle_command(command, Instant::now()) {
            return answer(Err(Refusal::new(RefusalKind::NotAllowed, why)));
        }
        let mut said = vec![match wanted {
            Membership::Rotate => {
                "the network token is being replaced on all machines that are on; those that are off \
                                   fetch the new one within 90 days. `c3os status` shows how far it is"
                    .to_owned()
            }
            Membership::Remove { node } => {
                format!("{} is no member any more", self.called(node, name.as_deref()))
            }
            Membership::Ban { node, keep_token: true } => format!(
                "{} is out for good. It still knows the network token and the agents' token, so a machine with another \
                 identity gets in with them: `c3os rotate` replaces the former",
                self.called(node, name.as_deref())
            ),
            Membership::Ban { node, keep_token: false } => format!(
                "{} is out for good; the network token and the agents' token are being replaced on all other machines. \
                 Bridges need the new one: `c3os get-network-token` on a machine",
                self.called(node, name.as_deref())
            ),
        }];
        if let Membership::Ban { node, .. } = wanted
            && self.parts.node.servers_of_cluster().any(|server| server == node)
        {
            said.push(
                "It was a server and knows k3s' server token and the cluster's own keys. On a server, `k3s token rotate` \
                 and `k3s certificate rotate-ca` replace them"
                    .to_owned(),
            );
        }
        let Some(name) = name else { return answer(Ok(said)) };
        let kubeconfig = host::kubeconfig(&self.parts.root);
        tokio::spawn(async move {
            said.push(match forget_machine(kubeconfig, &name).await {
                Ok(()) => format!("Kubernetes forgot {name}"),
                Err(why) => format!(
                    "Kubernetes may still list {name}: {why}. By hand, on a server: kubectl delete node {name}; \
                     kubectl -n kube-system delete secret {name}.node-password.k3s"
                ),
            });
            answer(Ok(said));
        });
    }

    fn called(&self, node: NodeId, name: Option<&str>) -> String {
        name.map_or_else(|| node.to_string(), str::to_owned)
    }

    /// Whether `member` may have this machine do something as the lead.
    pub(super) fn may_command(&self, member: NodeId) -> Result<(), Refusal> {
        match &self.parts.config.admin_peers {
            Some(admins) if !admins.contains(&member) => {
                let reason = format!("`c3os.admin_peers` of the lead does not name {member}");
                Err(Refusal::new(RefusalKind::NotAllowed, reason))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Keeps the network tokens that changed; tried again with the next look around if the disk does not take them.
    pub(super) fn keep_tokens(&mut self) {
        let Some(tokens) = self.tokens_due.take() else { return };
        if !self.parts.bridge
            && let Err(error) = host::write_tokens(&self.parts.root, &tokens)
        {
            tracing::error!(%error, "The new network token cannot be kept, so the old one stays in use");
            self.writes_failing = Some(error.to_string());
            self.tokens_due = Some(tokens);
            return;
        }
        let before = self.parts.node.tokens().map(crate::token::Keyring::number);
        self.parts.node.handle_observed(Observed::TokensKept, Instant::now());
        let now = self.parts.node.tokens().map(crate::token::Keyring::number);
        if now != before {
            tracing::info!(target: "c3os::_events::token-replaced", number = now, "The network token was replaced");
            self.renew_files();
        }
    }

    /// Puts the token in use into the configuration files, unless it is there.
    pub(super) fn renew_files(&mut self) {
        let Some(ring) = self.parts.node.tokens().filter(|_| !self.parts.bridge) else { return };
        let mode = host::mode(&self.parts.root);
        match host::renew_token(&self.parts.root, mode, &self.parts.directories, ring) {
            Ok(files) => {
                for file in files {
                    tracing::info!(file = %file.display(), "It holds the new network token now");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "The configuration still holds a network token that was replaced");
                self.parts.problems.push(node::snapshot::Problem {
                    severity: Severity::Warning,
                    what: error.to_string(),
                    fix: "`c3os get-network-token` prints the new one; this machine uses it already"
                        .to_owned(),
                });
            }
        }
    }

    /// Tells the node what day it is, as far as this machine knows.
    pub(super) fn tell_the_day(&mut self) {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.parts.node.handle_observed(Observed::Day(since.as_secs() / 86_400), Instant::now());
    }

    /// Who gets in from now on, with which token; also for new sessions of the data plane.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        if let Some(data) = &self.parts.data {
            data.set_psks(gate.member_tokens().map(|keys| Zeroizing::new(keys.data_psk)).collect());
            for banned in gate.banned() {
                data.remove_peer(*banned);
            }
        }
        self.gate_due = Some(gate);
    }

    /// Answers a reset; gives how the agent ends if it may be done.
    pub(super) fn may_reset(&mut self, call: Call) -> Option<End> {
        let Command::Reset { new_identity } = call.command else { return None };
        let refusal = match host::reset_objection(&self.parts.root, new_identity) {
            Ok(None) if self.parts.bridge => {
                Some("a bridge belongs to no cluster: end it instead".to_owned())
            }
            Ok(objection) => objection,
            Err(error) => Some(error.to_string()),
        };
        match refusal {
            Some(why) => {
                call.answer(Err(Refusal::new(RefusalKind::NotAllowed, why)));
                None
            }
            None => {
                call.answer(Ok(Reply::Done));
                Some(End::Reset { new_identity })
            }
        }
    }
}

/// Takes a machine out of Kubernetes, by the kubeconfig of this server.
async fn forget_machine(
    kubeconfig: Result<Option<Zeroizing<String>>, host::HostError>,
    name: &str,
) -> Result<(), String> {
    let kubeconfig = kubeconfig.map_err(|error| error.to_string())?;
    let kubeconfig = kubeconfig.ok_or("k3s has written no kubeconfig on the lead")?;
    let api = Connection::new(&kubeconfig).map_err(|error| error.to_string())?;
    api.forget_machine(name).await.map_err(|error| error.to_string())
}

/// Forgets the cluster, after the agent has stopped.
pub(super) async fn reset(root: &Root, new_identity: bool) -> anyhow::Result<()> {
    let root = root.clone();
    let work = move || {
        let services: Arc<dyn host::Services> = Arc::from(host::detect(&root));
        host::reset(&root, &*services, new_identity)
    };
    let aside = tokio::task::spawn_blocking(work).await.context("the reset ended without an answer")??;
    for path in aside {
        tracing::info!(path = %path.display(), "Set aside");
    }
    tracing::info!(target: "c3os::_events::reset", new_identity, "This machine has left its cluster");
    Ok(())
}
