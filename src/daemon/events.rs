//! What the mesh, the data plane and the node say, and what is done about it.

use std::{net::IpAddr, time::Instant};

use sd_notify::NotifyState;

use super::{
    agent::Agent,
    data_plane::{DEFAULT_MTU, DataPlaneEvent},
    handle::Control,
    lease::Office,
    questions,
    roles::Order,
};
use crate::{
    address, host,
    mesh::{MeshEvent, RequestKind},
    node::{self, Event, Observed},
    tun::Overlay,
    tunnel::PeerRoute,
};

impl Agent {
    pub(super) fn handle_mesh(&mut self, event: MeshEvent) {
        let now = Instant::now();
        match event {
            MeshEvent::PeerUp { id, address } => {
                tracing::info!(target: "c3os::_events::peer-up", %id, %address, "A peer came");
                self.underlay.insert(id, address);
                self.parts.node.handle_peer_up(id, now);
                self.set_routes();
                if let Some(data) = &self.parts.data {
                    data.peer_connected(id);
                }
                if !self.parts.bridge {
                    self.remember_peers();
                }
            }
            MeshEvent::PeerDown { id } => {
                tracing::info!(target: "c3os::_events::peer-down", %id, "A peer went");
                self.parts.node.handle_peer_down(id, now);
                if let Some(data) = &self.parts.data {
                    data.peer_disconnected(id);
                }
            }
            MeshEvent::Message { from, bytes } => {
                if let Err(fault) = self.parts.node.handle_message(from, &bytes, now) {
                    self.faults_of_peers += 1;
                    tracing::debug!(%from, %fault, "A message had no effect");
                }
            }
            MeshEvent::Request { from, kind: RequestKind::DataHandshake, bytes, reply } => {
                let Some(data) = self.parts.data.clone() else { return };
                tokio::spawn(async move {
                    // The asker may have given up.
                    let _ = reply.send(data.handshake_request(from, bytes).await);
                });
            }
            MeshEvent::Request { from, kind: RequestKind::Kubeconfig, reply, .. } => {
                let _ = reply.send(questions::encode(&self.own_kubeconfig(Some(from))));
            }
            MeshEvent::Request { from, kind: RequestKind::Command, bytes, reply } => {
                self.carry_out_for_member(from, &bytes, reply);
            }
            MeshEvent::Packets { from, packets } => {
                if let Some(data) = &self.parts.data {
                    data.read_stream(from, packets);
                }
            }
            MeshEvent::Errand { id, reply } => {
                if let Some(bytes) = self.parts.node.errand_for(id) {
                    tracing::info!(%id, "A machine fetches the new network token with the old one");
                    let _ = reply.send(bytes);
                }
            }
            MeshEvent::Replaced { from, bytes } => match self.parts.node.handle_errand(&bytes, now) {
                Ok(()) => tracing::info!(%from, "The network token was replaced while this machine was away"),
                Err(why) => tracing::debug!(%from, why, "Its word of a new network token counts for nothing"),
            },
            MeshEvent::Found { id, .. } => tracing::debug!(%id, "Somebody was found"),
            MeshEvent::Refused { id, address, reason } => {
                tracing::info!(%id, %address, ?reason, "A stranger, or no room");
            }
        }
    }

    pub(super) fn handle_data(&mut self, event: DataPlaneEvent) {
        match event {
            DataPlaneEvent::HandshakeWanted { peer, ticket, message } => {
                let Some(data) = self.parts.data.clone() else { return };
                let mesh = self.parts.mesh.clone();
                tokio::spawn(async move {
                    let answer = mesh.request(peer, RequestKind::DataHandshake, message).await;
                    data.handshake_answer(peer, ticket, answer.ok());
                });
            }
            DataPlaneEvent::Connected { peer, endpoint } => {
                tracing::info!(target: "c3os::_events::path-up", %peer, %endpoint, "Packets flow to a peer");
                self.measure_due = true;
            }
            DataPlaneEvent::StreamWanted { peer } => {
                let Some(data) = self.parts.data.clone() else { return };
                let mesh = self.parts.mesh.clone();
                tokio::spawn(async move {
                    match mesh.open_packets(peer).await {
                        Ok(writer) => data.write_stream(peer, writer),
                        Err(error) => tracing::debug!(%peer, %error, "no stream for datagrams"),
                    }
                });
            }
            DataPlaneEvent::Lost { peer, reason } => {
                tracing::info!(%peer, reason, "The path to a peer is gone")
            }
            DataPlaneEvent::Failed { reason } => {
                tracing::error!(reason, "The data plane stopped; the agent starts anew");
                // The service manager starts us again, with a new interface.
                std::process::exit(1);
            }
        }
    }

    /// Does what the node wants.
    pub(super) fn carry_out(&mut self, event: Event, control: &Control) {
        let now = Instant::now();
        match event {
            Event::Lease(lease) => {
                self.overlay_due = true;
                if !self.parts.bridge
                    && let Err(error) = host::write_lease(&self.parts.root, &lease)
                {
                    tracing::warn!(%error, "The address lease cannot be kept");
                }
                tracing::info!(target: "c3os::_events::address", address = %lease.v4, "Our overlay address");
                control.tell("address", [("address", lease.v4.to_string())]);
            }
            Event::LeaseChanged(event) => {
                if event.is_loud() {
                    tracing::warn!(fix = event.fix(), "The overlay address: {event}");
                } else {
                    tracing::debug!("The overlay address: {event}");
                }
            }
            Event::Pin(certificate) => match host::write_certificate(&self.parts.root, &certificate) {
                Ok(_) => self.parts.node.handle_observed(Observed::Pinned(certificate), now),
                Err(error) => {
                    tracing::error!(%error, "The founding certificate cannot be kept, so no role is taken")
                }
            },
            Event::Tokens(tokens) => {
                self.tokens_due = Some(*tokens);
                self.keep_tokens();
            }
            Event::Gate(gate) => self.set_gate(gate),
            Event::Members(members) => {
                self.members = members;
                self.set_routes();
            }
            Event::Role(order) => {
                if let Some(orders) = &self.parts.orders {
                    orders.send_replace(Order::Role(order));
                }
            }
            Event::Stop => {
                tracing::error!(target: "c3os::_events::stopped", "k3s is stopped: this machine's cluster went on without it");
                if let Some(orders) = &self.parts.orders {
                    orders.send_replace(Order::Stop);
                }
            }
            Event::RemoveServer { node, name } => self.removing = Some((node, name)),
            Event::Founded { cluster_id, founder } => {
                tracing::info!(target: "c3os::_events::founded", %cluster_id, %founder, "This machine is in a cluster");
                control
                    .tell("founded", [("cluster", cluster_id.to_string()), ("founder", founder.to_string())]);
                let _ = sd_notify::notify(&[NotifyState::Status(&format!("in cluster {cluster_id}"))]);
            }
            Event::Liveness { node, live } => {
                let name = if live { "member-up" } else { "member-down" };
                control.tell(name, [("node", node.to_string())]);
            }
            Event::Assigned { node, role } => {
                tracing::info!(target: "c3os::_events::assigned", %node, %role, "A role was assigned");
                control.tell("assigned", [("node", node.to_string()), ("role", role.to_string())]);
            }
        }
    }

    /// Tells whoever asks this server's API what for.
    pub(super) fn set_office(&self) {
        let Some(sender) = &self.parts.office else { return };
        let office = match self.parts.node.office() {
            Some(node::Office { name, several, epoch, ours, idle }) => {
                let remove = self.removing.clone().filter(|_| ours);
                Office { name: Some(name), several, epoch, ours, idle, remove }
            }
            None => Office::default(),
        };
        sender.send_if_modified(|told| std::mem::replace(told, office.clone()) != office);
    }

    /// Gives the data plane the way to every member.
    fn set_routes(&self) {
        let Some(data) = &self.parts.data else { return };
        let routes = self.members.iter().map(|(id, whereabouts)| {
            let v4 = whereabouts.ipv4.map(IpAddr::V4);
            let told = whereabouts.candidates.iter().map(|candidate| candidate.ip());
            PeerRoute {
                id: *id,
                addresses: v4.into_iter().chain([IpAddr::V6(whereabouts.ipv6)]).collect(),
                candidates: self
                    .underlay
                    .get(id)
                    .map(|address| address.ip())
                    .into_iter()
                    .chain(told)
                    .collect(),
            }
        });
        data.set_routes(routes.collect());
    }

    /// Brings the interface to our address, if that changed or failed before.
    pub(super) async fn set_overlay(&mut self) {
        let Some(data) = self.parts.data.clone().filter(|_| self.overlay_due) else { return };
        let Some(lease) = self.parts.node.lease() else { return };
        let subnet = self.parts.config.vpn.subnet;
        let prefix = address::ula_prefix(self.parts.mesh_id);
        let overlay = Overlay {
            v4: ipnet::Ipv4Net::new(lease.v4, subnet.prefix_len()).ok(),
            v6: Some((address::ula(self.parts.mesh_id, self.parts.node.id()), prefix)),
            mtu: self.parts.config.vpn.mtu.unwrap_or(DEFAULT_MTU),
        };
        match data.set_overlay(&overlay).await {
            Ok(()) => self.overlay_due = false,
            Err(error) => tracing::error!(%error, "The interface does not take its address"),
        }
    }

    /// Keeps where neighbours were met, for the next start.
    fn remember_peers(&self) {
        let peers: Vec<String> = self.underlay.values().map(ToString::to_string).collect();
        if let Err(error) = host::write_peers(&self.parts.root, &peers) {
            tracing::debug!(%error, "Peers are not remembered");
        }
    }
}
