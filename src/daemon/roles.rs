//! Keeps this machine what its role says: applies orders, looks at what k3s does, says what it saw.
//!
//! One task, so that two plans are never applied at once; the work blocks and runs on a thread of its own. It looks
//! often after a change and ever more rarely while nothing happens.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    config::Config,
    election::Role,
    host::{self, K3sObserved, Root, Services},
    k3s,
    node::{Observed, RoleOrder},
};

/// The first and the longest wait between two looks at a unit.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The first and the longest wait after a role could not be applied.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What this machine is to be.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Order {
    /// Whatever it is: nobody has said anything.
    #[default]
    AsItIs,
    /// This.
    Role(Box<RoleOrder>),
    /// Nothing, until somebody decides; what is there stays.
    Stop,
}

/// Applies whatever is ordered through the sender, the latest order only; ends with it.
pub(super) fn keep(root: Root, config: Config, seen: mpsc::Sender<Observed>) -> watch::Sender<Order> {
    let (orders, receiver) = watch::channel(Order::AsItIs);
    let services: Arc<dyn Services> = host::detect(&root).into();
    tokio::spawn(Keeper { root, config: Arc::new(config), services, seen, last: None }.run(receiver));
    orders
}

struct Keeper {
    root: Root,
    config: Arc<Config>,
    services: Arc<dyn Services>,
    seen: mpsc::Sender<Observed>,
    /// What was said last about the unit.
    last: Option<K3sObserved>,
}

impl Keeper {
    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let mut look = LOOK.0;
        let mut retry = RETRY.0;
        let mut due: Option<Instant> = None;
        let mut again = false;
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + LOOK.1);
            let changed = tokio::select! {
                changed = orders.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = time::sleep_until(wake), if due.is_some() => false,
            };
            let told = orders.borrow_and_update().clone();
            let order = match told {
                Order::Role(order) => *order,
                Order::Stop => {
                    self.stop().await;
                    due = None;
                    continue;
                }
                Order::AsItIs => continue,
            };
            if changed || again {
                let applied = self.apply(order.clone()).await;
                again = !applied;
                if changed {
                    retry = RETRY.0;
                }
                look = LOOK.0;
            }
            if self.look(order.assignment.role).await {
                look = LOOK.0;
            }
            due = Some(Instant::now() + if again { retry.min(look) } else { look });
            if again {
                due = Some(Instant::now() + retry);
                retry = (retry * 2).min(RETRY.1);
            }
            look = (look * 2).min(LOOK.1);
        }
    }

    /// Whether there is nothing left to try again.
    async fn apply(&self, order: RoleOrder) -> bool {
        let (root, config, services) = (self.root.clone(), self.config.clone(), self.services.clone());
        let work = move || {
            if let Some(left) = order.leaves
                && let Err(error) = host::leave(&root, &*services, left)
            {
                return (k3s::Plan::nothing(), Err(error));
            }
            let machine = host::inspect(&root);
            let plan = k3s::plan(&config, &order.assignment, &order.facts, &machine);
            let outcome = host::apply(&plan, &root, &*services);
            (plan, outcome)
        };
        let Ok((plan, outcome)) = tokio::task::spawn_blocking(work).await else {
            tracing::error!("Applying the role ended without an answer");
            return false;
        };
        match outcome {
            Ok(outcome) if outcome.complete => {
                if let Some(applied) = plan.applied {
                    tracing::info!(target: "c3os::_events::role-applied", role = %applied.role);
                    self.say(Observed::Applied(applied)).await;
                }
                self.say(Observed::Lacking(outcome.missing)).await;
                true
            }
            Ok(outcome) => {
                let waits = plan.waits_for.iter().map(ToString::to_string);
                let why: Vec<String> = outcome.missing.into_iter().chain(waits).collect();
                self.say(Observed::NotApplied(why.join("; "))).await;
                // What the plan waits for comes as another order; what is missing on the machine may appear.
                false
            }
            Err(error) => {
                tracing::error!(%error, "The role cannot be applied");
                self.say(Observed::NotApplied(error.to_string())).await;
                false
            }
        }
    }

    /// Has k3s run no more, in either role.
    async fn stop(&self) {
        let services = self.services.clone();
        let stopped = tokio::task::spawn_blocking(move || host::stop(&*services)).await;
        if let Ok(Err(error)) = stopped {
            tracing::error!(%error, "k3s cannot be stopped");
            self.say(Observed::NotApplied(error.to_string())).await;
        }
    }

    /// Whether something is different from the last look.
    async fn look(&mut self, role: Role) -> bool {
        let (root, services) = (self.root.clone(), self.services.clone());
        let look = tokio::task::spawn_blocking(move || host::observe(&root, &*services, role)).await;
        let observed = match look {
            Ok(Ok(observed)) => observed,
            Ok(Err(error)) => {
                tracing::debug!(%error, "The role's unit cannot be looked at");
                return false;
            }
            Err(_) => return false,
        };
        if self.last.as_ref() == Some(&observed) {
            return false;
        }
        let unit = match role {
            Role::Server => "k3s",
            Role::Worker => "k3s-agent",
        };
        self.say(Observed::Unit { name: unit.to_owned(), state: observed.unit.as_str().to_owned() }).await;
        if role == Role::Server {
            let version = self.version().await;
            let (up, ca_hash) = (observed.server_is_up(), observed.ca_hash.clone());
            let lan_address = self.lan_address().await;
            self.say(Observed::Server { up, ca_hash, version, lan_address }).await;
        }
        self.last = Some(observed);
        true
    }

    async fn version(&self) -> Option<String> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || host::k3s_version(&root).ok().flatten()).await.ok().flatten()
    }

    /// Where k3s is, if it stays on the LAN.
    async fn lan_address(&self) -> Option<std::net::Ipv4Addr> {
        if self.config.vpn.used_by_k3s {
            return None;
        }
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || host::inspect(&root).lan_address).await.ok().flatten()
    }

    async fn say(&self, observed: Observed) {
        // The receiver is gone only when the agent stops.
        let _ = self.seen.send(observed).await;
    }
}
