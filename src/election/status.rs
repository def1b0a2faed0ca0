//! Where founding stands, in words: for `status`, the dashboard and the log.

use std::fmt;

use super::{Ballot, ClusterId};
use crate::identity::NodeId;

/// A node as people know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its host name; empty if unknown.
    pub name: String,
    /// Its id.
    pub id: NodeId,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "node {}", self.id.short())
        } else {
            write!(f, "{} ({})", self.name, self.id.short())
        }
    }
}

/// A founded cluster in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Founded {
    /// Its id.
    pub cluster_id: ClusterId,
    /// Who founded it.
    pub founder: Peer,
    /// How many votes it took.
    pub minimum_nodes: u16,
}

impl fmt::Display for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} founded by {}", self.cluster_id, self.founder)
    }
}

/// Where founding stands, as this node sees it. It prints as plain sentences that say what it waits for and, where
/// somebody has to do something, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundingStatus {
    /// Nothing was decided yet: the agent has just started.
    Starting,
    /// `role: none`: no vote, no role.
    Observing,
    /// A setting that decides roles was not understood: no vote, no new role.
    Frozen,
    /// `join` is set: waits for that cluster, whatever else there is.
    Joining {
        /// The one it shall join.
        wanted: ClusterId,
        /// Other clusters seen under this network id.
        seen: Vec<Founded>,
    },
    /// Too few voters are there.
    WaitingForNodes {
        /// How many are there, this one included.
        present: usize,
        /// How many have to be.
        needed: usize,
        /// Voters that were here in the last ten minutes or before this start.
        absent: Vec<Peer>,
        /// Voters that are here, but have another `minimum_nodes`.
        unlike: Vec<Peer>,
        /// This node's own number.
        minimum_nodes: u16,
    },
    /// Enough voters, or alone and master; but there may be others that were not found yet.
    WaitingForDiscovery,
    /// Waits for the view to be still.
    Settling {
        /// How many voters are there.
        present: usize,
    },
    /// Another node is to propose.
    Following {
        /// Which one.
        proposer: Peer,
    },
    /// Several nodes have `role: master`, and only one server is wanted.
    SeveralForcedMasters {
        /// All of them, this one included if it is one.
        masters: Vec<Peer>,
    },
    /// Nodes voted under another `minimum_nodes` before; that vote binds.
    Bound {
        /// The number that was in force then.
        then: u16,
        /// The number in this node's configuration.
        now: u16,
    },
    /// Asked for promises.
    Preparing {
        /// In which ballot.
        ballot: Ballot,
        /// How many promised.
        promised: usize,
        /// How many have to.
        needed: usize,
        /// Who is there and has not answered.
        missing: Vec<Peer>,
    },
    /// Asked for votes.
    Accepting {
        /// In which ballot.
        ballot: Ballot,
        /// How many voted.
        voted: usize,
        /// How many have to.
        needed: usize,
        /// Who is there and has not answered.
        missing: Vec<Peer>,
    },
    /// This machine does not know how it voted.
    Amnesiac,
    /// Another machine runs with this machine's identity.
    Cloned,
    /// There is a certificate; it is being written to disk.
    Founded(Founded),
    /// This machine belongs to a cluster, for good.
    Pinned {
        /// Which one.
        cluster: Founded,
        /// Other clusters seen under this network id: somebody configured the guarantee away.
        others: Vec<Founded>,
        /// The cluster that `join` names, if it is another one.
        wanted: Option<ClusterId>,
    },
    /// There is a cluster that this machine cannot be part of.
    Conflict(Conflict),
    /// A lost cluster is to be succeeded, but a server of it can be reached.
    StillServed {
        /// The cluster.
        lost: ClusterId,
        /// Who.
        servers: Vec<Peer>,
    },
    /// A lost cluster is to be succeeded; its servers have not been silent for long enough.
    Silent {
        /// The cluster.
        lost: ClusterId,
    },
    /// This machine votes for a lost cluster's heir, and proposes none.
    Succeeding {
        /// The cluster.
        lost: ClusterId,
    },
}

/// Why a valid certificate is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// There are several, and none has a better right.
    Several(Vec<Founded>),
    /// This machine is to be master, and the cluster has one and can have no other.
    ForcedMaster(Founded),
    /// One machine founded it alone, and this one was told to ask for more.
    TooFewVotes {
        /// The lone cluster.
        cluster: Founded,
        /// `minimum_nodes` of this machine.
        wanted: u16,
    },
    /// This machine is a server of a cluster whose place another one took while it was away.
    Superseded {
        /// Its own.
        lost: Founded,
        /// The other.
        heir: Founded,
    },
    /// This machine runs the role of another cluster, whose certificate is not on its disk any more.
    Elsewhere {
        /// The one that is seen.
        cluster: Founded,
        /// The one that was applied.
        applied: ClusterId,
    },
}

impl FoundingStatus {
    /// The clusters of this network id that are not this machine's, or between which it does not choose.
    pub fn other_clusters(&self) -> Vec<&Founded> {
        if let Self::Pinned { others: clusters, .. } | Self::Joining { seen: clusters, .. } = self {
            return clusters.iter().collect();
        }
        let Self::Conflict(conflict) = self else { return Vec::new() };
        match conflict {
            Conflict::Several(clusters) => clusters.iter().collect(),
            Conflict::ForcedMaster(cluster)
            | Conflict::TooFewVotes { cluster, .. }
            | Conflict::Superseded { heir: cluster, .. }
            | Conflict::Elsewhere { cluster, .. } => vec![cluster],
        }
    }

    /// Whether somebody has to decide: there is another cluster, or one that this machine cannot be part of.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_)) || matches!(self, Self::Pinned { others, .. } if !others.is_empty())
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for FoundingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the agent has just started"),
            Self::Observing => f.write_str("this machine only looks on: it has no vote and takes no role"),
            Self::Frozen => f.write_str(
                "a setting that decides roles was not understood, so this machine neither votes nor takes a new role; \
                 `c3os validate` shows the mistake",
            ),
            Self::Joining { wanted, seen } => {
                write!(f, "waits for cluster {wanted}, as `c3os.join` says; it never founds one")?;
                if !seen.is_empty() {
                    write!(f, "; seen so far: {}", list(seen))?;
                }
                Ok(())
            }
            Self::WaitingForNodes { present, needed, absent, unlike, minimum_nodes } => {
                let more = needed.saturating_sub(*present);
                let s = if more == 1 { "" } else { "s" };
                write!(f, "waits for {more} more node{s}: {present} of {needed} are here")?;
                if !absent.is_empty() {
                    write!(f, "; away: {}", list(absent))?;
                }
                if !unlike.is_empty() {
                    write!(
                        f,
                        "; here, but with a `c3os.minimum_nodes` other than {minimum_nodes}, so that their votes do \
                         not count together: {}",
                        list(unlike)
                    )?;
                }
                Ok(())
            }
            Self::WaitingForDiscovery => f.write_str(
                "looks for other nodes before it founds a cluster (set `c3os.minimum_nodes` or `c3os.discovery.dht: \
                 false` to make this shorter)",
            ),
            Self::Settling { present: 1 } => f.write_str("no other node was found; founds a cluster alone in a moment"),
            Self::Settling { present } => write!(f, "{present} nodes are here; founds a cluster in a moment"),
            Self::Following { proposer } => write!(f, "enough nodes are here; {proposer} founds the cluster"),
            Self::SeveralForcedMasters { masters } => write!(
                f,
                "no cluster is founded, because {} machines have `c3os.role: master` and only one can be it: {}; \
                 remove `c3os.role` from all but one of them, or set `c3os.auto.ha.master_nodes` on all",
                masters.len(),
                list(masters)
            ),
            Self::Bound { then, now } => write!(
                f,
                "a founding that began with `c3os.minimum_nodes: {then}` is not finished, and this machine now has \
                 {now}; set it to {then} again until the cluster is founded"
            ),
            Self::Preparing { promised, needed, missing, .. } => {
                write!(f, "prepares the founding: {promised} of {needed} nodes answered")?;
                if !missing.is_empty() {
                    write!(f, "; waits for {}", list(missing))?;
                }
                Ok(())
            }
            Self::Accepting { voted, needed, missing, .. } => {
                write!(f, "founds the cluster: {voted} of {needed} votes")?;
                if !missing.is_empty() {
                    write!(f, "; waits for {}", list(missing))?;
                }
                Ok(())
            }
            Self::Amnesiac => f.write_str(
                "this machine lost the record of its votes, so it never votes again here; it waits until the others \
                 have founded the cluster",
            ),
            Self::Cloned => f.write_str(
                "another machine runs with this machine's identity, so their votes are void; remove \
                 /usr/local/.c3os/identity on one of them and restart its agent",
            ),
            Self::Founded(cluster) => write!(f, "{cluster}"),
            Self::Pinned { cluster, others, wanted } => {
                write!(f, "{cluster}")?;
                if !others.is_empty() {
                    write!(
                        f,
                        "; conflict: there is also {}; this machine stays where it is (`c3os cluster join ID` moves \
                         it)",
                        list(others)
                    )?;
                }
                if let Some(wanted) = wanted {
                    write!(
                        f,
                        "; `c3os.join` names cluster {wanted}, but this machine belongs to this one already (`c3os \
                         cluster join {wanted}` moves it)"
                    )?;
                }
                Ok(())
            }
            Self::Conflict(conflict) => write!(f, "conflict: {conflict}"),
            Self::StillServed { lost, servers } => write!(
                f,
                "no cluster takes the place of {lost}, because a server of it can be reached: {}",
                list(servers)
            ),
            Self::Silent { lost } => write!(
                f,
                "the servers of cluster {lost} have to be silent for ten minutes before another one takes its place"
            ),
            Self::Succeeding { lost } => write!(f, "votes for the cluster that takes the place of {lost}"),
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Several(clusters) => write!(
                f,
                "there are {} clusters under this network id: {}; say which with `c3os cluster join ID`",
                clusters.len(),
                list(clusters)
            ),
            Self::ForcedMaster(cluster) => write!(
                f,
                "this machine has `c3os.role: master`, but there is {cluster} already, which cannot take a second \
                 server; remove `c3os.role` here to join it as a worker",
            ),
            Self::TooFewVotes { cluster, wanted } => write!(
                f,
                "{cluster} was founded by one machine alone, and `c3os.minimum_nodes` of this machine is {wanted}; \
                 remove `c3os.minimum_nodes` here to join it, or reset that machine",
            ),
            Self::Superseded { lost, heir } => write!(
                f,
                "this machine is a server of {lost}, whose place {heir} took while it was away; k3s stays stopped here \
                 and nothing is removed. `c3os cluster join {}` makes this machine part of the new one, `c3os reset` a \
                 new machine",
                heir.cluster_id
            ),
            Self::Elsewhere { cluster, applied } => write!(
                f,
                "there is {cluster}, but this machine runs the role of cluster {applied}, whose certificate it has not \
                 got any more; `c3os cluster join {}` moves it",
                cluster.cluster_id
            ),
        }
    }
}

/// Whether two clusters are impossible, and what that rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantee {
    /// m.
    pub minimum_nodes: u16,
    /// Ids known under this network id, living or not.
    pub ids: usize,
}

impl Guarantee {
    /// Two sets of m among so many ids always share one: `2m > ids`.
    pub fn holds(&self) -> bool {
        usize::from(self.minimum_nodes) * 2 > self.ids
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minimum_nodes, ids } = self;
        if self.holds() {
            write!(
                f,
                "two clusters are impossible as long as fewer than {} machines (reinstalled ones count again) start \
                 before they hear of the cluster: `c3os.minimum_nodes` is {minimum_nodes}, {ids} are known",
                u32::from(*minimum_nodes) * 2
            )
        } else {
            write!(
                f,
                "two clusters are possible if the network splits while the first one is founded: \
                 `c3os.minimum_nodes` is {minimum_nodes} and {ids} machines are known; {} on all of them rules it out",
                ids / 2 + 1
            )
        }
    }
}
