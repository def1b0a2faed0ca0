//! c3os mesh: the piece inside an immutable Kubernetes OS that makes a pile of machines become one cluster.
//!
//! Every machine reads the same config.yaml. The agent joins an encrypted mesh, agrees with the others who is k3s
//! server and who is worker, and writes k3s' configuration.
//!
//! ```text
//! config.yaml --host--> config::Config --> token --> identity
//!                            |
//! cli, dashboard --Command-->   daemon event loop   --Snapshot--> cli, dashboard, metrics
//!                                      |
//!   mesh <---- signed bytes, peers ----+---- node::Node (pure): ledger -> address -> election
//!   host <---- Plan{files, units} -----+---- k3s::plan(Config, Assignment)
//!   host ----- observed facts ---------+---> ledger
//!   tun  <-> tunnel fast path <-> udp  (own threads; reads a route table that the daemon swaps)
//! ```
//!
//! The pure rooms decide; they have no clock, no I/O and no async: time, randomness and the outside come in as
//! arguments (`handle_*`, `now`), decisions go out (`poll_*`). That is held by the feature `os`, without which the
//! other rooms and their dependencies do not exist, and by the lints in `.clippy.toml`.
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`config`] | cloud-config text to [`config::Config`]; every mistake at once; the JSON schema |
//! | [`token`] | the network token: all generations, ours, the keys derived from it, the proof of admission |
//! | [`identity`] | a node's key and id, signatures, sealing |
//! | [`ledger`] | the replicated map of signed entries, each author's its own |
//! | [`address`] | the overlay address of a node: candidate, claim, conflict |
//! | [`election`] | founding exactly one cluster, and who is server or worker |
//! | [`tunnel`] | the data plane without its sockets: handshake, sessions, replay window, routes |
//! | [`k3s`] | an assignment and a configuration to a plan of files and units |
//! | [`node`] | the one composite of the above: every decision of one member, none of the I/O |
//! | `daemon` | the event loop: owns everything, alone reads the clock |
//! | [`mesh`] | libp2p: discovery, admission, streams of opaque bytes |
//! | `tun`, `udp` | device and sockets |
//! | `host` | the machine: atomic files, service managers, applying a plan |
//! | `kube` | what a server asks of its own Kubernetes API: the Lease, its node |
//! | `api` | HTTP on a socket, its typed client, the dashboard |
//! | `cli` | one file per verb |

pub mod address;
#[cfg(feature = "os")]
pub mod api;
#[cfg(feature = "os")]
pub mod cli;
pub mod config;
#[cfg(feature = "os")]
pub mod daemon;
pub mod election;
#[cfg(feature = "os")]
pub mod host;
pub mod identity;
pub mod k3s;
#[cfg(feature = "os")]
pub mod kube;
pub mod ledger;
#[cfg(feature = "os")]
pub mod mesh;
pub mod node;
pub mod token;
#[cfg(feature = "os")]
pub mod tun;
pub mod tunnel;
#[cfg(feature = "os")]
pub mod udp;
