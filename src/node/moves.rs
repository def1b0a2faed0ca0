//! Belonging to another cluster: the first time by the founding certificate, later only by somebody's word.

use std::{collections::BTreeSet, time::Instant};

use super::{Node, Told, Watch, fresh, members::Members};
use crate::{
    address::{Drawer, Pool},
    election::{Certificate, ClusterId, Founding},
};

impl Node {
    /// This machine belongs to another cluster from now on: its first, or, by an operator's word, a second one.
    pub(super) fn pin(&mut self, certificate: Certificate) {
        let before = self.cluster_id().filter(|before| *before != certificate.cluster().cluster_id);
        self.pinned = Some(certificate);
        if before.is_some() {
            let pool = Pool::new(self.settings.config.vpn.subnet, Drawer::Node)
                .expect("the same pool was made when this member started");
            let settings = self.settings.founding(pool);
            self.founding = Founding::new(self.id(), settings, fresh(&mut self.rng));
            self.heir = None;
            self.lists.clear();
            self.reign = None;
            self.watch = Watch::default();
            self.writes = None;
            (self.removing, self.removed) = (None, BTreeSet::new());
            self.seen.server = None;
            self.told = Told {
                lease: self.told.lease,
                members: std::mem::take(&mut self.told.members),
                ..Told::default()
            };
        }
    }

    /// Goes to another cluster, as an operator wants.
    pub(super) fn request_move(&mut self, cluster_id: ClusterId, now: Instant) -> Result<(), String> {
        if self.settings.observes() {
            return Err(
                "this machine takes no part in a cluster (`c3os.role: none`, a bridge or a live system)"
                    .to_owned(),
            );
        }
        let members = Members::of(&self.ledger, &self.connected, &self.outside);
        let view = self.view(&members);
        if view.pinned.is_some() && !view.may_leave {
            return Err("this machine is a server, and its cluster runs workload (or its API server does not say that it \
                        runs none); a server moves only when it runs none"
                .to_owned());
        }
        self.founding.may_join(&view, cluster_id)?;
        self.founding.choose(cluster_id);
        let acts = self.founding.decide(&view, now);
        self.carry_out(acts, 1, now);
        self.due = true;
        Ok(())
    }
}
