//! What the blocks mean: defaults filled in.

use super::{
    AtBoot, Auto, Config, Discovery, Install, K3s, Kubevip, Vpn,
    document::{self, Document},
    reader::Reader,
    scalar::Argument,
};

/// The configuration that `document` asks for. A part in which a booting machine would be wrong to guess is off: see
/// the mistakes of `reader`.
pub(super) fn config(document: Document, reader: &Reader) -> Config {
    let c3os = document.c3os.unwrap_or_default();
    let install = install(document.install.unwrap_or_default(), &c3os, reader);
    let defaults = Config::default();
    Config {
        network_token: c3os.network_token,
        network_id: c3os.network_id.unwrap_or_default(),
        role: c3os.role.unwrap_or_default(),
        minimum_nodes: c3os.minimum_nodes.map(|number| number.0),
        join: c3os.join.map(|cluster| cluster.0),
        admin_peers: c3os.admin_peers,
        dns: c3os.dns.unwrap_or(defaults.dns),
        loglevel: c3os.loglevel.unwrap_or_default(),
        auto: auto(c3os.auto.unwrap_or_default()),
        discovery: discovery(c3os.discovery.unwrap_or_default()),
        vpn: vpn(c3os.vpn.unwrap_or_default()),
        k3s: server(document.k3s.unwrap_or_default()),
        k3s_agent: worker(document.k3s_agent.unwrap_or_default()),
        kubevip: kubevip(document.kubevip.unwrap_or_default()),
        install,
        frozen: false,
    }
}

fn auto(written: document::Auto) -> Auto {
    let ha = written.ha.unwrap_or_default();
    Auto {
        additional_servers: ha.master_nodes.map_or(0, |number| number.0),
        external_db: ha.external_db,
        replace_after: ha.replace_after.and_then(|after| after.0),
        merge: written.merge.unwrap_or(false),
    }
}

fn discovery(written: document::Discovery) -> Discovery {
    let default = Discovery::default();
    Discovery {
        mdns: written.mdns.unwrap_or(default.mdns),
        dht: written.dht.unwrap_or(default.dht),
        bootstrap: written.bootstrap.unwrap_or_default().into_iter().map(|peer| peer.0).collect(),
        listen_port: written.listen_port.map_or(default.listen_port, |number| number.0),
    }
}

fn vpn(written: document::Vpn) -> Vpn {
    let default = Vpn::default();
    let create = written.create.unwrap_or(default.create);
    Vpn {
        create,
        used_by_k3s: create && written.used.unwrap_or(default.used_by_k3s),
        interface: written.interface.map_or(default.interface, |name| name.0),
        subnet: written.subnet.map_or(default.subnet, |subnet| subnet.0),
        address: written.address.map(|address| address.0),
        mtu: written.mtu.and_then(|mtu| mtu.0),
        port: written.port.map_or(default.port, |number| number.0),
    }
}

fn arguments(written: Option<Vec<Argument>>) -> Vec<String> {
    written.unwrap_or_default().into_iter().map(|argument| argument.0).collect()
}

fn server(written: document::K3sServer) -> K3s {
    K3s {
        args: arguments(written.args),
        env: written.env.unwrap_or_default().0,
        replace_args: written.replace_args.unwrap_or(false),
        replace_env: written.replace_env.unwrap_or(false),
        enabled: written.enabled.unwrap_or(false),
        embedded_registry: written.embedded_registry.unwrap_or(false),
        expose: written.expose.unwrap_or(false),
    }
}

fn worker(written: document::K3sWorker) -> K3s {
    K3s {
        args: arguments(written.args),
        env: written.env.unwrap_or_default().0,
        replace_args: written.replace_args.unwrap_or(false),
        replace_env: written.replace_env.unwrap_or(false),
        enabled: written.enabled.unwrap_or(false),
        embedded_registry: false,
        expose: false,
    }
}

fn kubevip(written: document::Kubevip) -> Kubevip {
    let on = written.enable.unwrap_or(true);
    Kubevip {
        eip: written.eip.filter(|_| on).map(|address| address.0.to_string()),
        interface: written.interface.map(|name| name.0),
    }
}

/// `c3os.offline` and its neighbours are where the original first had these.
fn install(written: document::Install, c3os: &document::C3os, reader: &Reader) -> Install {
    let default = Install::default();
    let poweroff = written.poweroff.or(c3os.poweroff).unwrap_or(default.poweroff);
    // Nobody is asked before a disk is overwritten, so nothing about it may be a guess.
    let doubtful = reader.mistakes().any(|mistake| {
        mistake.at_boot == AtBoot::Off && (mistake.key.starts_with("install") || mistake.key == "c3os.device")
    });
    Install {
        auto: !doubtful && written.auto.or(c3os.offline).unwrap_or(default.auto),
        device: written.device.or_else(|| c3os.device.clone()).map_or(default.device, |device| device.0),
        reboot: written.reboot.or(c3os.reboot).unwrap_or(!poweroff),
        poweroff,
    }
}
