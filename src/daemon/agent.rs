//! One run of an agent: its parts, and the loop that moves them.
//!
//! Everything in the loop is safe to be cancelled between two events: what was taken from a channel is handled to the
//! end before the next wait.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    End, Signals,
    data_plane::{DataPlane, DataPlaneEvent},
    handle::{Call, Control, Reply},
    lease::Office,
    questions::Asked,
    roles::Order,
    start,
};
use crate::{
    config::Config,
    host::{self, LedgerFile, Root},
    identity::NodeId,
    ledger::WriteKind,
    mesh::{Mesh, MeshEvent},
    node::{Node, Observed, Whereabouts, snapshot::Problem},
    token::{Gate, KeptTokens, MeshId},
};

/// Events that are handled before the node's conclusions go out: others wait no longer than that.
const BUDGET: usize = 64;
/// How often the service manager is told that the loop turns; the unit's limit is 60 s.
const WATCHDOG: Duration = Duration::from_secs(20);
/// Our own addresses are looked at this often.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Everything that runs. See [`super`] for how it hangs together.
pub(super) struct Agent {
    pub(super) parts: Parts,
    /// Who the others are and where, as the node said last.
    pub(super) members: BTreeMap<NodeId, Whereabouts>,
    /// Where neighbours are connected from.
    pub(super) underlay: BTreeMap<NodeId, SocketAddr>,
    pub(super) exhausted_at: Option<Instant>,
    /// Interface settings to be made; none: nothing has changed.
    pub(super) overlay_due: bool,
    pub(super) running_since: Instant,
    pub(super) faults_of_peers: u64,
    pub(super) writes_failing: Option<String>,
    /// Who gets in from now on; none: the mesh knows.
    pub(super) gate_due: Option<Gate>,
    /// Network tokens that are not on disk yet.
    pub(super) tokens_due: Option<KeptTokens>,
    /// What was kept of the number of our writes.
    mark_kept: u64,
    /// A round trip may be known that was not before.
    pub(super) measure_due: bool,
    /// Who waits for a role to hold.
    pub(super) asked: Vec<Asked>,
    /// The server that the node wants Kubernetes to let go of.
    pub(super) removing: Option<(NodeId, String)>,
}

/// What an agent is made of.
pub(super) struct Parts {
    pub(super) root: Root,
    pub(super) config: Config,
    /// Where that was read; none: the usual places.
    pub(super) directories: Vec<std::path::PathBuf>,
    pub(super) bridge: bool,
    pub(super) node: Node,
    pub(super) ledger_file: Option<LedgerFile>,
    pub(super) mesh: Mesh,
    pub(super) mesh_events: mpsc::Receiver<MeshEvent>,
    pub(super) data: Option<Arc<DataPlane>>,
    pub(super) data_events: mpsc::Receiver<DataPlaneEvent>,
    pub(super) orders: Option<watch::Sender<Order>>,
    /// Asks this server's API; none where no role is applied.
    pub(super) office: Option<watch::Sender<Office>>,
    pub(super) role_events: mpsc::Receiver<Observed>,
    /// How long others are looked for before they are held not to be there.
    pub(super) search: Duration,
    pub(super) problems: Vec<Problem>,
    pub(super) mesh_id: MeshId,
}

/// What the loop woke up for.
enum Woken {
    Mesh(MeshEvent),
    Data(DataPlaneEvent),
    Seen(Observed),
    Called(Call),
    Ended(End),
    Time,
    Watchdog,
    LookAround,
}

impl Agent {
    pub(super) fn assemble(parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            members: BTreeMap::new(),
            underlay: BTreeMap::new(),
            exhausted_at: Some(now + parts.search),
            overlay_due: true,
            running_since: now,
            faults_of_peers: 0,
            writes_failing: None,
            gate_due: None,
            tokens_due: None,
            mark_kept: 0,
            measure_due: false,
            asked: Vec::new(),
            removing: None,
            parts,
        }
    }

    /// Runs until it is told to stop or to read the configuration again.
    pub(super) async fn run(mut self, control: &mut Control, signals: &mut Signals) -> End {
        let mut watchdog = time::interval(WATCHDOG);
        let mut look_around = time::interval(LOOK_AROUND);
        let end = loop {
            self.flush(control).await;
            self.show_change(control);
            let wake = self.wake_at();
            let woken = tokio::select! {
                Some(event) = self.parts.mesh_events.recv() => Woken::Mesh(event),
                Some(event) = self.parts.data_events.recv() => Woken::Data(event),
                Some(seen) = self.parts.role_events.recv() => Woken::Seen(seen),
                call = control.next() => Woken::Called(call),
                end = signals.next() => Woken::Ended(end),
                () = time::sleep_until(wake.into()) => Woken::Time,
                _ = watchdog.tick() => Woken::Watchdog,
                _ = look_around.tick() => Woken::LookAround,
            };
            match woken {
                Woken::Ended(end) => break end,
                Woken::Called(call) if call.is_reload() => {
                    call.answer(Ok(Reply::Done));
                    break End::Reload;
                }
                Woken::Called(call) if call.is_reset() => {
                    if let Some(end) = self.may_reset(call) {
                        break end;
                    }
                }
                Woken::Mesh(_)
                | Woken::Data(_)
                | Woken::Seen(_)
                | Woken::Called(_)
                | Woken::Time
                | Woken::Watchdog
                | Woken::LookAround => self.handle(woken, control).await,
            }
            // Whatever else has come meanwhile is handled before conclusions are drawn from half of it.
            for _ in 0..BUDGET {
                let Ok(event) = self.parts.mesh_events.try_recv() else { break };
                self.handle(Woken::Mesh(event), control).await;
            }
        };
        self.stop().await;
        end
    }

    async fn handle(&mut self, woken: Woken, control: &Control) {
        match woken {
            Woken::Mesh(event) => self.handle_mesh(event),
            Woken::Data(event) => self.handle_data(event),
            Woken::Seen(observed) => self.parts.node.handle_observed(observed, Instant::now()),
            Woken::Called(call) => self.answer(call, control).await,
            Woken::Time => self.handle_time(),
            Woken::Watchdog => {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
            Woken::LookAround => self.look_around().await,
            Woken::Ended(_) => {}
        }
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let node = self.parts.node.poll_timeout().map(|(at, _why)| at);
        let asked = self.asked.iter().map(Asked::due).min();
        [node, self.exhausted_at, asked].into_iter().flatten().fold(far, Instant::min)
    }

    fn handle_time(&mut self) {
        let now = Instant::now();
        if self.exhausted_at.is_some_and(|at| at <= now) {
            self.exhausted_at = None;
            self.parts.node.handle_observed(Observed::DiscoveryExhausted, now);
        }
        self.parts.node.handle_timeout(now);
    }

    /// Tells the mesh and the data plane where we are now, and keeps what need not be kept at once.
    async fn look_around(&mut self) {
        self.keep_tokens();
        self.keep_mark();
        self.tell_the_day();
        let addresses = start::underlay_addresses(&self.parts.config);
        if let Some(data) = &self.parts.data {
            let port = data.ports().first().copied().unwrap_or(self.parts.config.vpn.port);
            let candidates = addresses.iter().map(|address| (*address, port).into()).collect();
            data.set_addresses(addresses);
            self.parts.node.handle_observed(Observed::Candidates(candidates), Instant::now());
        }
        self.measure().await;
    }

    /// Tells the node how long round trips take.
    pub(super) async fn measure(&mut self) {
        let Some(data) = self.parts.data.clone() else { return };
        let peers = data.peers().await.into_iter();
        let measured = peers.filter_map(|peer| Some((peer.id, peer.round_trip?))).collect();
        self.parts.node.handle_observed(Observed::RoundTrips(measured), Instant::now());
    }

    /// Carries out what the node wants, in the order that makes it safe: first to disk, then to others.
    async fn flush(&mut self, control: &Control) {
        let mut events = VecDeque::new();
        loop {
            let mut idle = true;
            while let Some(write) = self.parts.node.poll_write() {
                idle = false;
                let written = match (&mut self.parts.ledger_file, write.kind) {
                    (None, _) => Ok(()),
                    (Some(file), WriteKind::Append) => file.append(&write.bytes, write.must_sync),
                    (Some(file), WriteKind::Replace) => file.replace(&write.bytes),
                };
                let now = Instant::now();
                match written {
                    Ok(()) => {
                        self.writes_failing = None;
                        self.parts.node.handle_written(now);
                    }
                    Err(error) => {
                        tracing::error!(%error, "The ledger cannot be written: this machine says nothing new until it can");
                        self.writes_failing = Some(error.to_string());
                        self.parts.node.handle_write_failed(now);
                    }
                }
            }
            while let Some((to, bytes)) = self.parts.node.poll_transmit() {
                idle = false;
                // Counted by the mesh; the ledger finds out by comparing.
                let _ = self.parts.mesh.send(to, bytes);
            }
            while let Some(event) = self.parts.node.poll_event() {
                idle = false;
                events.push_back(event);
            }
            while let Some(event) = events.pop_front() {
                self.carry_out(event, control);
            }
            if idle {
                break;
            }
        }
        if let Some(gate) = self.gate_due.take() {
            self.parts.mesh.set_gate(gate).await;
        }
        self.set_overlay().await;
        if std::mem::take(&mut self.measure_due) {
            self.measure().await;
        }
        self.set_office();
        self.answer_asked();
    }

    /// Keeps the number of our latest write beside the identity: a ledger that knows of fewer was lost in part.
    fn keep_mark(&mut self) {
        let mark = self.parts.node.written_mark();
        if self.parts.bridge || mark <= self.mark_kept {
            return;
        }
        match host::write_mark(&self.parts.root, self.parts.node.id(), mark) {
            Ok(_) => self.mark_kept = mark,
            Err(error) => tracing::warn!(%error, "The number of our latest write cannot be kept"),
        }
    }

    async fn stop(mut self) {
        self.keep_mark();
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        let Parts { mesh, data, orders, office, bridge, .. } = self.parts;
        drop((orders, office));
        mesh.close().await;
        let Some(data) = data else { return };
        if bridge {
            if let Err(error) = data.delete().await {
                tracing::warn!(%error, "The interface stays behind");
            }
        } else {
            data.stop().await;
        }
    }
}
