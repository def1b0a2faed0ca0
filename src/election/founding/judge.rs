//! Which certificate a node applies: the first that fits, and afterwards no other without somebody's word.

use std::{collections::BTreeMap, time::Instant};

use super::{Act, Founding, Pace, founded};
use crate::{
    config::RoleSetting,
    election::{Certificate, ClusterId, Conflict, Datastore, FoundingStatus, View, decree::Registers},
};

/// What the certificates mean for a node.
pub(super) enum Verdict {
    Apply(Certificate),
    Wait(FoundingStatus),
}

impl Founding {
    /// The distinct clusters that certificates in the ledger or the registers themselves prove. Publishes what nobody
    /// else has published.
    pub(super) fn certificates(
        &mut self,
        view: &View,
        registers: &Registers<'_>,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> BTreeMap<ClusterId, Certificate> {
        for certificate in registers.certificates() {
            if certificate.cluster().network_id == self.settings.network_id {
                self.proven.entry(certificate.cluster().cluster_id).or_insert((certificate, now));
            }
        }
        let published: BTreeMap<ClusterId, Certificate> = view
            .certificates
            .iter()
            .filter(|certificate| certificate.cluster().network_id == self.settings.network_id)
            .map(|certificate| (certificate.cluster().cluster_id, certificate.clone()))
            .collect();
        for (certificate, since) in self.proven.values().cloned().collect::<Vec<_>>() {
            if !published.contains_key(&certificate.cluster().cluster_id) {
                self.publish(&certificate, since, now, acts);
            }
        }
        let proven = self.proven.values().map(|(c, _)| (c.cluster().cluster_id, c.clone()));
        proven.chain(published).collect()
    }

    fn publish(&mut self, certificate: &Certificate, since: Instant, now: Instant, acts: &mut Vec<Act>) {
        let due = match &self.pace {
            Some(pace) if certificate.proposer() != self.me => since + pace.publish_grace(),
            Some(_) | None => since,
        };
        if self.published.is_some() {
            // One certificate under one key: a second one would replace the first.
        } else if now >= due {
            self.published = Some(certificate.cluster().cluster_id);
            acts.push(Act::Publish(certificate.clone()));
        } else {
            self.wake(due, "publish the founding certificate");
        }
    }

    pub(super) fn pinned(
        &mut self,
        view: &View,
        pinned: &Certificate,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let cluster_id = pinned.cluster().cluster_id;
        let is_published = view.certificates.iter().any(|c| c.cluster().cluster_id == cluster_id);
        if !is_published && self.settings.role != RoleSetting::None {
            let (_, since) = self.proven.entry(cluster_id).or_insert((pinned.clone(), now));
            let since = *since;
            self.pace.get_or_insert_with(|| Pace::new(self.seed, now));
            self.publish(pinned, since, now, acts);
        }
        let others: BTreeMap<ClusterId, Certificate> = view
            .certificates
            .iter()
            .chain(self.proven.values().map(|(certificate, _)| certificate))
            .map(|certificate| (certificate.cluster().cluster_id, certificate.clone()))
            .filter(|(id, _)| *id != cluster_id && Some(*id) != pinned.cluster().supersedes)
            .collect();
        let wanted = self.settings.join.filter(|wanted| *wanted != cluster_id);
        if let Some(certificate) = self.moves_to(wanted).and_then(|to| others.get(&to))
            && view.may_leave
            && self.objection(view, certificate).is_none()
        {
            return self.pin(view, certificate, acts);
        }
        let heir = others.values().find(|other| other.cluster().supersedes == Some(cluster_id));
        if let Some(heir) = heir.filter(|_| view.serves) {
            let (lost, heir) = (founded(view, pinned), founded(view, heir));
            return FoundingStatus::Conflict(Conflict::Superseded { lost, heir });
        }
        FoundingStatus::Pinned {
            cluster: founded(view, pinned),
            others: others.values().map(|certificate| founded(view, certificate)).collect(),
            wanted,
        }
    }

    /// The cluster that this machine goes to from its own, by somebody's word.
    fn moves_to(&self, wanted: Option<ClusterId>) -> Option<ClusterId> {
        self.chosen.or(wanted.filter(|_| self.settings.merge))
    }

    /// Whether this machine may go to the cluster `id` when it is told to, from whatever it belongs to.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn may_join(&self, view: &View, id: ClusterId) -> Result<(), String> {
        if view.pinned.as_ref().is_some_and(|pinned| pinned.cluster().cluster_id == id) {
            return Err(format!("this machine is in cluster {id} already"));
        }
        let seen = view.certificates.iter().find(|certificate| certificate.cluster().cluster_id == id);
        let Some(certificate) = seen else {
            return Err(format!(
                "no member of the mesh shows a certificate of cluster {id} under network id {}; `c3os cluster show` \
                 lists those that are seen",
                self.settings.network_id
            ));
        };
        match self.objection(view, certificate) {
            Some(conflict @ Conflict::ForcedMaster(_)) => Err(conflict.to_string()),
            Some(_) | None => Ok(()),
        }
    }

    /// Goes to the cluster `id`, as soon as that can be; see [`Founding::may_join`].
    pub fn choose(&mut self, id: ClusterId) {
        self.chosen = Some(id);
    }

    pub(super) fn pin(
        &mut self,
        view: &View,
        certificate: &Certificate,
        acts: &mut Vec<Act>,
    ) -> FoundingStatus {
        let cluster_id = certificate.cluster().cluster_id;
        if self.pinning != Some(cluster_id) {
            self.pinning = Some(cluster_id);
            acts.push(Act::Pin(certificate.clone()));
        }
        FoundingStatus::Founded(founded(view, certificate))
    }

    /// What the certificates mean for this node; none if there are none.
    pub(super) fn judge(&self, view: &View, seen: &BTreeMap<ClusterId, Certificate>) -> Option<Verdict> {
        if let Some(succession) = &self.settings.succeeds {
            let heir = seen.values().find(|heir| heir.cluster().supersedes == Some(succession.lost));
            return heir.map(|heir| Verdict::Apply(heir.clone()));
        }
        if let Some(chosen) = self.chosen.and_then(|chosen| seen.get(&chosen)) {
            return Some(Verdict::Apply(chosen.clone()));
        }
        if let Some(wanted) = self.settings.join {
            let fits = seen.get(&wanted).filter(|certificate| self.objection(view, certificate).is_none());
            return Some(match fits {
                Some(certificate) => Verdict::Apply(certificate.clone()),
                None => Verdict::Wait(FoundingStatus::Joining {
                    wanted,
                    seen: seen.values().map(|certificate| founded(view, certificate)).collect(),
                }),
            });
        }
        if self.settings.frozen {
            return Some(Verdict::Wait(FoundingStatus::Frozen));
        }
        let (mut fitting, mut objections) = (Vec::new(), Vec::new());
        let superseded = |id| seen.values().any(|other| other.cluster().supersedes == Some(id));
        for certificate in seen.values().filter(|seen| !superseded(seen.cluster().cluster_id)) {
            match self.objection(view, certificate) {
                None => fitting.push(certificate),
                Some(conflict) => objections.push(conflict),
            }
        }
        match fitting.as_slice() {
            [] => objections
                .into_iter()
                .next()
                .map(|conflict| Verdict::Wait(FoundingStatus::Conflict(conflict))),
            [only] => Some(Verdict::Apply((*only).clone())),
            several => Some(Verdict::Wait(FoundingStatus::Conflict(Conflict::Several(
                several.iter().map(|certificate| founded(view, certificate)).collect(),
            )))),
        }
    }

    /// Why this node may not apply a valid certificate.
    fn objection(&self, view: &View, certificate: &Certificate) -> Option<Conflict> {
        let cluster = certificate.cluster();
        let named = || founded(view, certificate);
        let own_minimum = self.settings.minimum_nodes.filter(|own| *own > 1);
        if let Some(applied) = view.applied.filter(|applied| *applied != cluster.cluster_id)
            && view.pinned.is_none()
        {
            return Some(Conflict::Elsewhere { cluster: named(), applied });
        }
        if let Some(wanted) = own_minimum.filter(|_| cluster.minimum_nodes == 1) {
            Some(Conflict::TooFewVotes { cluster: named(), wanted })
        } else if self.settings.role == RoleSetting::Master
            && cluster.founder != self.me
            && cluster.datastore == Datastore::Sqlite
        {
            Some(Conflict::ForcedMaster(named()))
        } else {
            None
        }
    }
}
