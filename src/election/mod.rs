//! Founding exactly one cluster, and who is server or worker in it.
//!
//! Founding is one decree: single-decree Paxos among the voters of a network id, over two registers that each voter
//! keeps in the ledger. What it leaves behind is a [`Certificate`] that anybody can check alone, for ever. Afterwards
//! the lead writes an [`Assignment`] for every node ([`roles`]).
//!
//! ```text
//!             Observing (role: none)    Frozen (broken file)    Joining (join: ID)
//!                 no vote                   no vote                 no vote
//!
//!             +------------------------------- more nodes, time -------------------------------+
//!             v                                                                                |
//! Starting -> WaitingForNodes -> WaitingForDiscovery -> Settling -> Preparing -> Accepting     |
//!             |  SeveralForcedMasters     |  Following      ^            |           |         |
//!             +-------- vote whenever a ballot is seen -----+- overtaken +-----------+---------+
//!                                                                                    |
//!       Amnesiac, Cloned: no vote --------- a certificate is seen or proven ---------+
//!                                                 |                  |
//!                                     fits: Founded -> Pinned    does not fit: Conflict
//! ```
//! Safety rests on m = `minimum_nodes` alone: two certificates cannot exist if `2m > ids` that ever run without holding
//! one ([`Guarantee`]). Everything else here (who proposes, when, the majority of known voters) is for calm and progress.
//!
//! Pure: decisions depend on the [`View`], the time and the seed that come in.

mod bytes;
mod certificate;
mod cluster;
mod decree;
mod electorate;
mod founding;
mod pace;
mod register;
mod role;
pub mod roles;
mod status;
mod view;

pub use certificate::{Certificate, CertificateError};
pub use cluster::{Cluster, ClusterId, ClusterIdError, Datastore, Value};
pub use electorate::DEFAULT_MINIMUM_NODES;
pub use founding::{Act, Founding, FoundingSettings};
pub use register::{Acceptor, Ballot, Held, Proposer, Register, RegisterError};
pub use role::{Assignment, Role, RoleError};
pub use status::{Conflict, Founded, FoundingStatus, Guarantee, Peer};
pub use view::{View, VoterView};

#[cfg(test)]
mod tests;
