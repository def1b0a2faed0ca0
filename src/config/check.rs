//! Settings that are fine alone and wrong together.
//!
//! Each check says so at the setting that its writer will most likely change, and turns the part off that cannot work.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Config, RoleSetting, reader::Reader};
use crate::address::{Drawer, Pool};

/// Queues of the data plane, one UDP port each.
const DATA_PORTS: u16 = 4;

/// UDP and TCP ports of Kubernetes on every node.
const TAKEN: [(u16, &str); 7] = [
    (2379, "etcd's"),
    (2380, "etcd's"),
    (5001, "the embedded registry's"),
    (6443, "the API server's"),
    (8080, "the port of c3os' own API"),
    (8472, "flannel's"),
    (10250, "the kubelet's"),
];

/// Finds what does not go together in `config`.
pub(super) fn together(config: &mut Config, reader: &mut Reader) {
    token(config, reader);
    roles(config, reader);
    servers(config, reader);
    subnet(config, reader);
    address(config, reader);
    ports(config, reader);
    interface(config, reader);
    discovery(config, reader);
    kubevip(config, reader);
    install(config, reader);
}

fn error(reader: &mut Reader, path: &str, message: String, hint: &str) -> bool {
    reader.revisit(path, |reader, place| reader.error(place, message, Some(hint.to_owned())))
}

fn warning(reader: &mut Reader, path: &str, message: &str, hint: &str) -> bool {
    reader.revisit(path, |reader, place| reader.warning(place, message, Some(hint.to_owned())))
}

fn token(config: &Config, reader: &mut Reader) {
    if config.network_token.is_some() && reader.origins.is_set("c3os.network_token_file") {
        let message = "there is a `network_token` too, and that one counts".to_owned();
        error(reader, "c3os.network_token_file", message, "keep one of the two");
    }
}

fn roles(config: &mut Config, reader: &mut Reader) {
    if config.role == RoleSetting::None {
        for path in ["c3os.minimum_nodes", "c3os.join", "c3os.auto.ha.master_nodes", "c3os.auto.merge"] {
            warning(
                reader,
                path,
                "has no effect with `role: none`",
                "such a machine never takes part in a cluster",
            );
        }
        return;
    }
    if config.auto.merge && config.join.is_none() {
        warning(reader, "c3os.auto.merge", "has no effect without `c3os.join`", "name the cluster to join");
    }
    let has_token = config.network_token.is_some() || reader.origins.is_set("c3os.network_token_file");
    for (path, enabled) in
        [("k3s.enabled", &mut config.k3s.enabled), ("k3s-agent.enabled", &mut config.k3s_agent.enabled)]
    {
        if *enabled && has_token {
            // Kairos wants it there to read `args` and `env`; here they always count.
            let hint =
                "on a mesh the machines decide who runs k3s; with `role: none` this machine runs its own";
            warning(reader, path, "has no effect on a mesh", hint);
            *enabled = false;
        }
    }
    if config.k3s.enabled && config.k3s_agent.enabled {
        let message = "`k3s.enabled` is true too: one machine is either server or worker".to_owned();
        error(reader, "k3s-agent.enabled", message, "keep one of the two");
        config.k3s_agent.enabled = false;
    }
}

fn servers(config: &mut Config, reader: &mut Reader) {
    let auto = &mut config.auto;
    let total = auto.additional_servers + 1;
    if total.is_multiple_of(2) && auto.external_db.is_none() {
        let message = format!("{} additional and the first are {total} servers, an even number", total - 1);
        let fewer =
            if total > 2 { format!("{} for {} servers, or ", total - 2, total - 1) } else { String::new() };
        let hint = format!(
            "an even number survives no more losses than one server fewer: write {fewer}{total} for {} servers",
            total + 1
        );
        error(reader, "c3os.auto.ha.master_nodes", message, &hint);
        auto.additional_servers = 0;
    }
    if auto.replace_after.is_some() && auto.additional_servers == 0 {
        let hint = "a single server cannot be replaced; see `master_nodes`";
        warning(reader, "c3os.auto.ha.replace_after", "has no effect with one server", hint);
    }
}

fn subnet(config: &mut Config, reader: &mut Reader) {
    const PATH: &str = "c3os.vpn.subnet";
    let subnet = config.vpn.subnet;
    let default = super::Vpn::default().subnet;
    if Pool::new(subnet, Drawer::Node).is_err() {
        let message = format!("a /{} has no place for a mesh: from /8 to /26", subnet.prefix_len());
        error(reader, PATH, message, "a private network that is used nowhere else, such as 10.1.0.0/16");
        config.vpn.subnet = default;
        return;
    }
    let first = subnet.network();
    if first.is_loopback()
        || first.is_link_local()
        || first.is_multicast()
        || first.octets()[0] == 0
        || first.octets()[0] >= 240
    {
        let message = format!("{subnet} cannot be given to machines");
        error(reader, PATH, message, "a private network, such as 10.1.0.0/16");
        config.vpn.subnet = default;
        return;
    }
    if config.role != RoleSetting::None && config.vpn.used_by_k3s {
        for (what, flag, usual) in [
            ("pods", "--cluster-cidr", Ipv4Addr::new(10, 42, 0, 0)),
            ("services", "--service-cidr", Ipv4Addr::new(10, 43, 0, 0)),
        ] {
            let usual = Ipv4Net::new_assert(usual, 16);
            let moved = config.k3s.args.iter().any(|argument| argument.starts_with(flag));
            if !moved && (usual.contains(&subnet) || subnet.contains(&usual)) {
                let message = format!("{subnet} overlaps {usual}, where Kubernetes has its {what}");
                error(reader, PATH, message, "another private network, such as 10.1.0.0/16");
                config.vpn.subnet = default;
                return;
            }
        }
    }
    let private = [
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
    ];
    if !private.into_iter().any(|(net, length)| Ipv4Net::new_assert(net, length).contains(&subnet)) {
        let hint = "a private network, such as 10.1.0.0/16";
        warning(
            reader,
            PATH,
            "these addresses belong to others on the Internet, who cannot be reached then",
            hint,
        );
    }
}

fn address(config: &mut Config, reader: &mut Reader) {
    let (Some(address), subnet) = (config.vpn.address, config.vpn.subnet) else { return };
    let usable = Pool::new(subnet, Drawer::Node).is_ok_and(|pool| pool.is_usable(address));
    if !usable {
        let message = format!("{address} is no address for a machine in {subnet}");
        error(reader, "c3os.vpn.address", message, "inside `c3os.vpn.subnet`, and not ending in .0 or .255");
        config.vpn.address = None;
    }
}

fn ports(config: &mut Config, reader: &mut Reader) {
    let default = Config::default();
    let taken = |port: u16| TAKEN.iter().find(|(taken, _)| *taken == port);
    if let Some((port, whose)) = taken(config.discovery.listen_port) {
        let message = format!("{port} is {whose}");
        error(reader, "c3os.discovery.listen_port", message, "another port, such as 4001");
        config.discovery.listen_port = default.discovery.listen_port;
    }
    let data = config.vpn.port..=config.vpn.port.saturating_add(DATA_PORTS - 1);
    if let Some((port, whose)) = data.clone().find_map(taken) {
        let message = format!("{} to {} are used, and {port} is {whose}", data.start(), data.end());
        error(reader, "c3os.vpn.port", message, "another port, such as 51900");
        config.vpn.port = default.vpn.port;
        return;
    }
    if data.contains(&config.discovery.listen_port) {
        let message = format!(
            "{} to {} are used, and {} is discovery's",
            data.start(),
            data.end(),
            config.discovery.listen_port
        );
        let hint = "`c3os.vpn.port` and the three after it must not contain `c3os.discovery.listen_port`";
        if !error(reader, "c3os.vpn.port", message.clone(), hint) {
            error(reader, "c3os.discovery.listen_port", message, hint);
        }
        config.vpn.port = default.vpn.port;
        config.discovery.listen_port = default.discovery.listen_port;
    }
}

fn interface(config: &Config, reader: &mut Reader) {
    if !config.vpn.create && reader.origins.get("c3os.vpn.use").is_some_and(|origin| origin.value == "true") {
        let message = "has no effect with `create: false`: there is no interface to use";
        warning(reader, "c3os.vpn.use", message, "leave out one of the two");
    }
}

fn discovery(config: &Config, reader: &mut Reader) {
    let discovery = &config.discovery;
    if !discovery.mdns && !discovery.dht && discovery.bootstrap.is_empty() {
        let message =
            "with mDNS and DHT off and no peer to dial, others are found only if the token names peers";
        let hint = "c3os.discovery.bootstrap: [/ip4/192.0.2.1/tcp/4001]";
        let _ = warning(reader, "c3os.discovery.dht", message, hint)
            || warning(reader, "c3os.discovery.mdns", message, hint);
    }
}

fn kubevip(config: &mut Config, reader: &mut Reader) {
    let kubevip = &mut config.kubevip;
    if kubevip.interface.as_ref() == Some(&config.vpn.interface) {
        let message =
            format!("{} is the overlay, where nobody asks who has an address", config.vpn.interface);
        let hint = "an interface on the LAN, such as eth0; or leave it out for the one of the default route";
        error(reader, "kubevip.interface", message, hint);
        (kubevip.eip, kubevip.interface) = (None, None);
    }
    let eip: Option<IpAddr> = kubevip.eip.as_ref().and_then(|eip| eip.parse().ok());
    if let Some(IpAddr::V4(eip)) = eip
        && config.vpn.create
        && config.vpn.subnet.contains(&eip)
    {
        let message = format!("{eip} lies in the overlay's subnet {}", config.vpn.subnet);
        error(reader, "kubevip.eip", message, "a free address of the LAN");
        kubevip.eip = None;
    }
    if !reader.origins.is_set("kubevip.eip") {
        for path in ["kubevip.interface", "kubevip.enable"] {
            warning(
                reader,
                path,
                "has no effect without `kubevip.eip`",
                "the virtual address: a free one of the LAN",
            );
        }
    }
}

fn install(config: &mut Config, reader: &mut Reader) {
    if config.install.reboot && config.install.poweroff {
        let message = "reboot and power off cannot both be true".to_owned();
        if !error(reader, "install.poweroff", message.clone(), "keep one of the two") {
            error(reader, "c3os.poweroff", message, "keep one of the two");
        }
        config.install.poweroff = false;
    }
}
