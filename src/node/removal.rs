//! Taking a server off the list: the lead proposes, the other servers agree, Kubernetes lets go of it, the list says so.
//!
//! ```text
//! lead: removal/<network id> ──> other servers: consent/<network id> ──> lead: Event::RemoveServer
//!                                                                             │ its etcd member is gone
//!                                lead: server list without it <── Observed::ServerRemoved
//! ```

use std::time::{Duration, Instant};

use super::{
    Assignments, Event, Node, fact,
    members::{Members, read},
};
use crate::{
    election::{Cluster, Consent, Reign, Servers, roles},
    identity::NodeId,
};

impl Node {
    /// As the lead: goes on with a removal that is under way, or begins the one that is due.
    pub(super) fn remove_servers(
        &mut self,
        view: &roles::RolesView,
        cluster: &Cluster,
        reign: &Reign,
        assignments: &Assignments,
        now: Instant,
    ) {
        let key = fact::in_network("removal", &cluster.network_id);
        let Some(node) = self.to_remove(view, cluster, now) else {
            if let Ok(key) = key.parse() {
                self.ledger.remove(&key, now);
            }
            return;
        };
        let removal = fact::Removal {
            cluster_id: cluster.cluster_id,
            epoch: view.epoch,
            node,
            asked: self.asked(cluster, node),
        };
        self.said.say(&mut self.ledger, &key, &removal, now);
        let consents = self.consents(cluster, reign, node);
        let Ok(shorter) = reign.servers.remove(&self.identity, view.epoch, node, consents) else { return };
        if self.removed.contains(&node) {
            self.said.say_bytes(
                &mut self.ledger,
                &Servers::key(&cluster.network_id),
                shorter.to_bytes(),
                now,
            );
        } else if self.removing != Some(node) {
            self.removing = Some(node);
            let name = assignments.get(&node).map(|assignment| assignment.name.clone()).unwrap_or_default();
            self.events.push_back(Event::RemoveServer { node, name });
        }
    }

    /// The server that has to go: by an operator's word, or because it is away for too long.
    fn to_remove(&self, view: &roles::RolesView, cluster: &Cluster, now: Instant) -> Option<NodeId> {
        let asked = view.servers.current().iter().find(|id| self.asked(cluster, **id));
        let away = self.watch.away();
        match (asked, self.settings.config.auto.replace_after) {
            (Some(_), _) => {
                roles::replaceable(view, away, Duration::ZERO, now).filter(|node| self.asked(cluster, *node))
            }
            (None, Some(after)) => roles::replaceable(view, away, after, now),
            (None, None) => None,
        }
    }

    /// Whether an operator asked for the removal of a server.
    fn asked(&self, cluster: &Cluster, node: NodeId) -> bool {
        let key = fact::about("remove", &cluster.network_id, &node);
        self.ledger.latest(&key).is_some()
    }

    fn consents(&self, cluster: &Cluster, reign: &Reign, node: NodeId) -> Vec<Consent> {
        let key = fact::in_network("consent", &cluster.network_id);
        let said = reign.servers.current().iter().filter_map(|server| {
            read::<fact::Agreed>(&self.ledger, *server, &key).filter(|agreed| agreed.node == node)
        });
        said.map(|agreed| agreed.consent).collect()
    }

    /// As a server that does not lead: agrees to a removal that the lead proposes, if the server is away for us too.
    pub(super) fn agree(&mut self, members: &Members, cluster: &Cluster, reign: &Reign, now: Instant) {
        if reign.lead == self.id() || !reign.servers.contains(&self.id()) {
            return;
        }
        let key = fact::in_network("removal", &cluster.network_id);
        let Some(removal) = read::<fact::Removal>(&self.ledger, reign.lead, &key) else { return };
        let after =
            if removal.asked { Some(Duration::ZERO) } else { self.settings.config.auto.replace_after };
        let away = self.watch.away().get(&removal.node);
        let due = after.is_some_and(|after| away.is_some_and(|since| now >= *since + after));
        let fits = removal.cluster_id == cluster.cluster_id
            && removal.epoch == reign.epoch
            && reign.servers.contains(&removal.node)
            && removal.node != self.id()
            && !members.is_live(removal.node);
        if fits && due {
            let consent = reign.servers.consent(&self.identity, &removal.node);
            let agreed = fact::Agreed { node: removal.node, consent };
            self.said.say(&mut self.ledger, &fact::in_network("consent", &cluster.network_id), &agreed, now);
        }
    }
}
