//! From a machine's disk and configuration to a running [`Agent`].

use std::{net::IpAddr, sync::Arc, time::Instant};

use anyhow::Context;
use ipnet::IpNet;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{
    agent::Agent,
    data_plane::{DEFAULT_MTU, DataPlane, DataPlaneEvent, DataPlaneSettings, Features},
    lease, roles,
};
use crate::{
    address,
    config::Config,
    host::{self, HostError, LedgerFile, Origin, Root},
    identity::Identity,
    ledger::Ledger,
    mesh::{Mesh, MeshSettings},
    node::{
        Kept, Node, Settings,
        snapshot::{Problem, Severity},
    },
    token::{Keyring, NetworkToken},
    tunnel::REKEY_AFTER,
};

/// Where others can no longer be found by waiting: multicast DNS has asked several times by then.
pub(super) const LAN_SEARCH: std::time::Duration = std::time::Duration::from_secs(3);
/// The same where the DHT is wanted, which this version does not have: as long as its bootstrap would be tried.
pub(super) const DHT_SEARCH: std::time::Duration = std::time::Duration::from_secs(30);

/// What an agent starts with.
pub(super) struct Start {
    pub(super) root: Root,
    pub(super) config: Config,
    pub(super) token: NetworkToken,
    pub(super) directories: Vec<std::path::PathBuf>,
    pub(super) visitor: bool,
    pub(super) bridge: bool,
    pub(super) problems: Vec<Problem>,
}

impl Agent {
    /// Starts everything. What only a part needs and cannot have turns that part off, loudly.
    ///
    /// # Errors
    /// What nothing works without: the identity, a port to listen on, the ledger's file.
    pub(super) async fn start(start: Start) -> anyhow::Result<Self> {
        let Start { root, mut config, token, directories, visitor, bridge, mut problems } = start;
        let identity = Arc::new(identity(&root, bridge, &mut problems)?);
        let tokens = keyring(&root, bridge, token, &mut problems)?;
        let token = tokens.current().clone();
        let mesh_id = token.keys().mesh_id;
        let (ledger_file, ledger) = if bridge {
            (None, None)
        } else {
            let (file, bytes) = LedgerFile::open(&root)?;
            (Some(file), Some(bytes))
        };
        let names = host::names(&root)?;
        let kept = Kept {
            ledger,
            new_identity: bridge,
            pinned: once(host::read_certificate(&root), &mut problems)?,
            lease: once(host::read_lease(&root), &mut problems)?,
            applied: once(host::read_applied(&root), &mut problems)?,
            tokens: Some(tokens),
            mark: once(host::read_mark(&root, identity.id()), &mut problems)?,
        };
        if let Some(overlap) = overlaps(&config) {
            problem(
                &mut problems,
                Severity::Error,
                overlap,
                "set `c3os.vpn.subnet` to a network that is free here",
            );
            config.vpn.create = false;
        }
        let settings = Settings {
            config: config.clone(),
            mesh_id,
            name: names.name,
            uuid: names.uuid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
            visitor,
        };
        let seed = random::<32>()?;
        let (node, damage) = Node::new(settings, identity.clone(), kept, *seed, Instant::now())
            .context("the overlay address")?;
        for what in damage {
            problem(
                &mut problems,
                Severity::Warning,
                format!("the ledger on disk: {what}"),
                "nothing; peers have it",
            );
        }

        let (data, data_events) =
            data_plane(&config, &identity, &token.keys().data_psk, bridge, &mut problems)?;
        let mut mesh_settings = MeshSettings::new(identity.clone(), node.gate().clone());
        mesh_settings.listen_port = if bridge { 0 } else { config.discovery.listen_port };
        mesh_settings.mdns = config.discovery.mdns;
        mesh_settings.static_peers =
            config.discovery.bootstrap.iter().chain(token.peers()).cloned().collect();
        mesh_settings.excluded_interfaces.push(config.vpn.interface.clone());
        mesh_settings.excluded_subnets =
            vec![IpNet::V4(config.vpn.subnet), IpNet::V6(address::ula_prefix(mesh_id))];
        let (mesh, mesh_events) = Mesh::start(mesh_settings).context("the mesh")?;
        for peer in once(host::read_peers(&root), &mut problems)? {
            // A remembered address that is none any more is no reason to stop.
            let _ = mesh.dial(&peer);
        }

        let (seen, role_events) = mpsc::channel(16);
        let applies = !visitor && host::other_provider(&root).is_none();
        if let Some(provider) = host::other_provider(&root).filter(|_| !visitor) {
            let what = format!("{provider} is active on this machine: it is on the mesh, and takes no role");
            problem(&mut problems, Severity::Warning, what, "disable the other provider");
        }
        let orders = applies.then(|| roles::keep(root.clone(), config.clone(), seen.clone()));
        let office = applies.then(|| lease::keep(root.clone(), identity.id(), seen));
        let search = if config.discovery.dht { DHT_SEARCH } else { LAN_SEARCH };
        let mut agent = Self::assemble(super::agent::Parts {
            root,
            config,
            directories,
            bridge,
            node,
            ledger_file,
            mesh,
            mesh_events,
            data,
            data_events,
            orders,
            office,
            role_events,
            search,
            problems,
            mesh_id,
        });
        agent.tell_the_day();
        // A rotation that ended before the files were written goes on here.
        agent.renew_files();
        Ok(agent)
    }
}

/// This machine's identity; a bridge has one for as long as it runs.
fn identity(root: &Root, bridge: bool, problems: &mut Vec<Problem>) -> anyhow::Result<Identity> {
    let fresh = random::<32>()?;
    if bridge {
        return Ok(Identity::from_seed(&fresh));
    }
    if !host::has_identity(root) {
        // The ledger's first record comes before the identity: an identity without it has lost its ledger, always.
        let mut ledger = Ledger::new(Arc::new(Identity::from_seed(&fresh)), *random::<32>()?, Instant::now());
        let (mut file, _) = LedgerFile::open(root)?;
        let first = ledger.poll_write().map(|write| write.bytes).unwrap_or_default();
        file.replace(&first)?;
    }
    let found = host::load_identity(root, &fresh)?;
    match found.origin {
        Origin::Kept => {}
        Origin::Made => tracing::info!(id = %found.identity.id(), "This machine has an identity now"),
        Origin::Cloned(aside) => {
            let what = format!(
                "this disk is a copy of another machine's: it has a new identity; the copied state is in {}",
                aside.display()
            );
            problem(problems, Severity::Warning, what, "nothing, if this machine was cloned on purpose");
        }
        Origin::Damaged(aside) => {
            let what = format!(
                "the identity was damaged; this is a new member. The old file is {}",
                aside.display()
            );
            problem(problems, Severity::Error, what, "remove the old member with `c3os node remove`");
        }
    }
    Ok(found.identity)
}

/// The network tokens: what was kept of rotations, as far as it belongs to the configured one.
fn keyring(
    root: &Root,
    bridge: bool,
    token: NetworkToken,
    problems: &mut Vec<Problem>,
) -> anyhow::Result<Keyring> {
    if bridge {
        return Ok(Keyring::new(token));
    }
    let Some(kept) = once(host::read_tokens(root), problems)? else { return Ok(Keyring::new(token)) };
    Keyring::resume(token.clone(), &kept).or_else(|error| {
        let what = format!("the network tokens that were kept: {error}");
        problem(problems, Severity::Warning, what, "nothing; the configured one is used");
        Ok(Keyring::new(token))
    })
}

fn data_plane(
    config: &Config,
    identity: &Identity,
    psk: &[u8; 32],
    bridge: bool,
    problems: &mut Vec<Problem>,
) -> anyhow::Result<(Option<Arc<DataPlane>>, mpsc::Receiver<DataPlaneEvent>)> {
    let off = || (None, mpsc::channel(1).1);
    if !config.vpn.create {
        return Ok(off());
    }
    let settings = DataPlaneSettings {
        me: identity.id(),
        psk: Zeroizing::new(*psk),
        interface: config.vpn.interface.clone(),
        port: config.vpn.port,
        addresses: underlay_addresses(config),
        mtu: config.vpn.mtu.unwrap_or(DEFAULT_MTU),
        rekey_after: REKEY_AFTER,
        features: Features::from_environment(),
    };
    match DataPlane::start(settings) {
        Ok((plane, events)) => Ok((Some(Arc::new(plane)), events)),
        Err(error) if bridge => Err(error).context("the interface"),
        Err(error) => {
            tracing::error!(%error, "There is no data plane: packets do not flow");
            problem(problems, Severity::Error, error.to_string(), "mend that, then restart c3os-agent");
            Ok(off())
        }
    }
}

/// What container networks call their interfaces: their addresses are no place to meet this machine at, and kube-proxy
/// may have hundreds.
const OF_CONTAINERS: [&str; 7] = ["cali", "cilium", "cni", "docker", "flannel", "kube-", "veth"];

/// Our addresses on real networks.
pub(super) fn underlay_addresses(config: &Config) -> Vec<IpAddr> {
    let excluded = |name: &str| {
        name == "lo"
            || name == config.vpn.interface
            || OF_CONTAINERS.iter().any(|prefix| name.starts_with(prefix))
    };
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter(|interface| !excluded(&interface.interface_name))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            // Link-local IPv6 needs a scope, which does not travel.
            let v6 = address.as_sockaddr_in6().map(|v6| v6.ip()).filter(|v6| !v6.is_unicast_link_local());
            v4.or(v6.map(IpAddr::V6))
        })
        .collect()
}

/// A local network that lies in the overlay's subnet, in a sentence.
fn overlaps(config: &Config) -> Option<String> {
    if !config.vpn.create {
        return None;
    }
    address::overlap(config.vpn.subnet, &config.vpn.interface, &host::local_networks())
        .map(|overlap| overlap.to_string())
}

/// What a state file says; damage is told once and means that there is none.
fn once<T: Default>(read: Result<T, HostError>, problems: &mut Vec<Problem>) -> Result<T, HostError> {
    match read {
        Err(error @ HostError::Damaged { .. }) => {
            problem(
                problems,
                Severity::Warning,
                error.to_string(),
                "nothing; it is made anew where it can be",
            );
            Ok(T::default())
        }
        other => other,
    }
}

fn problem(problems: &mut Vec<Problem>, severity: Severity, what: String, fix: &str) {
    match severity {
        Severity::Error => tracing::error!("{what}"),
        Severity::Warning => tracing::warn!("{what}"),
    }
    problems.push(Problem { severity, what, fix: fix.to_owned() });
}

/// Bytes of the operating system's random source.
fn random<const N: usize>() -> anyhow::Result<Zeroizing<[u8; N]>>
where
    [u8; N]: ring::rand::RandomlyConstructable,
{
    let random = ring::rand::generate::<[u8; N]>(&ring::rand::SystemRandom::new())
        .ok()
        .context("the operating system's random source does not answer")?;
    Ok(Zeroizing::new(random.expose()))
}
