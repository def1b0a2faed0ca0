//! Founding exactly one cluster, and who is server or worker in it.
//!
//! Founding is one decree: single-decree Paxos among the voters of a network id, over two registers that each voter
//! keeps in the ledger. What it leaves behind is a [`Certificate`] that anybody can check alone, for ever. Afterwards
//! the lead ([`Reign`]) writes an [`Assignment`] for every node ([`roles`]) and keeps the list of [`Servers`].
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
//! A cluster whose servers are lost is succeeded by one of the next generation: a decree of its own, in registers of its
//! own, in which only its other members vote, once an operator has said so and no server was heard for ten minutes
//! ([`Succession`]).
//!
//! Safety rests on m = `minimum_nodes` alone: two certificates cannot exist if `2m > ids` that ever run without holding
//! one ([`Guarantee`]). Everything else here (who proposes, when, the majority of known voters) is for calm and progress.
//!
//! Pure: decisions depend on the [`View`], the time and the seed that come in.

mod bytes;
mod campaign;
mod certificate;
mod cluster;
mod decree;
mod electorate;
mod founding;
pub mod lead;
mod pace;
mod register;
mod role;
pub mod roles;
mod servers;
mod status;
mod view;

pub use campaign::{Bid, Campaign, DURATION as LEASE_DURATION, RENEW as RENEW_LEASE, Record as LeaseRecord};
pub use certificate::{Certificate, CertificateError};
pub use cluster::{Cluster, ClusterId, ClusterIdError, Datastore, Value};
pub use electorate::DEFAULT_MINIMUM_NODES;
pub use founding::{Act, Founding, FoundingSettings, Succession};
pub use lead::{Held as HeldLease, Leadership, Reign};
pub use register::{Acceptor, Ballot, Held, Proposer, Register, RegisterError};
pub use role::{Assignment, Role, RoleError};
pub use servers::{Consent, Servers, ServersError};
pub use status::{Conflict, Founded, FoundingStatus, Guarantee, Peer};
pub use view::{View, VoterView};

#[cfg(test)]
mod tests;
