//! What others called it: Kairos' `p2p` block, and the environment of the original's mesh program.
//!
//! Each old key becomes the setting of ours that it stands for, or its writer is told why it has no effect.

use std::rc::Rc;

use ipnet::Ipv4Net;

use super::{
    RoleSetting,
    block::{Refusal, Setting, Text},
    document::{C3os, Environment, Ha, P2p, Vpn},
    reader::Reader,
    suggest::{closest, shown},
    tree::{Node, Place},
};

/// What one of the original's environment variables stands for.
#[derive(Clone, Copy)]
enum Meaning {
    /// The same value at this path under `c3os`.
    Same(&'static [&'static str]),
    /// Addresses separated by commas.
    Peers,
    /// The MTU of the interface.
    Mtu,
    /// Read together: see [`adopt_address`].
    Address,
    /// Nothing here, because...
    Nothing(&'static str),
}

const API: &str = "the API is always at /run/c3os/api.sock, and read-only at 127.0.0.1:8080";
const EGRESS: &str = "no member routes for others here";
const DNS: &str =
    "`c3os.dns: true` answers the names of the mesh; all others go to the machine's own resolvers";
const SILENCE: &str = "changes are pushed at once, and members watch each other without a fixed interval";
const STREAMS: &str = "packets do not travel in libp2p streams here";
const NAT: &str = "ways through NAT are found without settings";
const NEIGHBOURS: &str = "every node keeps a bounded number of neighbours by itself";
const BAN: &str = "members are kept out by `c3os node ban`";

/// Names ending in `*` stand for all that start so. The first that fits counts.
const VARIABLES: &[(&str, Meaning)] = &[
    ("ADDRESS", Meaning::Address),
    ("DHCP", Meaning::Address),
    ("IFACE", Meaning::Same(&["vpn", "interface"])),
    ("EDGEVPNTOKEN", Meaning::Same(&["network_token"])),
    ("EDGEVPNDHT", Meaning::Same(&["discovery", "dht"])),
    ("EDGEVPNMDNS", Meaning::Same(&["discovery", "mdns"])),
    ("EDGEVPNBOOTSTRAPPEERS", Meaning::Peers),
    ("EDGEVPNLOGLEVEL", Meaning::Same(&["loglevel"])),
    ("EDGEVPNMTU", Meaning::Mtu),
    ("API*", Meaning::Nothing(API)),
    ("DHCPLEASEDIR", Meaning::Nothing("the address is kept in /usr/local/.c3os/lease")),
    ("ROUTER", Meaning::Nothing(EGRESS)),
    ("EGRESS*", Meaning::Nothing(EGRESS)),
    ("DNS*", Meaning::Nothing(DNS)),
    ("TRANSIENTCONN", Meaning::Nothing(NAT)),
    ("HEALTHCHECK*", Meaning::Nothing(SILENCE)),
    ("EDGEVPNCONFIG", Meaning::Nothing("the token is `c3os.network_token`")),
    ("EDGEVPNTIMEOUT", Meaning::Nothing(STREAMS)),
    ("EDGEVPNPACKETMTU", Meaning::Nothing(STREAMS)),
    ("EDGEVPNCHANNELBUFFERSIZE", Meaning::Nothing(STREAMS)),
    ("EDGEVPNMAXSTREAMS", Meaning::Nothing(STREAMS)),
    ("EDGEVPNLOWPROFILE*", Meaning::Nothing(STREAMS)),
    ("EDGEVPNMPLEX", Meaning::Nothing(STREAMS)),
    ("EDGEVPNDHTINTERVAL", Meaning::Nothing(SILENCE)),
    ("EDGEVPNLEDGERSTATE", Meaning::Nothing("the ledger is always kept in /usr/local/.c3os/ledger")),
    ("EDGEVPNLEDGER*", Meaning::Nothing(SILENCE)),
    ("EDGEVPNNAT*", Meaning::Nothing(NAT)),
    ("EDGEVPNAUTORELAY*", Meaning::Nothing(NAT)),
    ("EDGEVPNHOLEPUNCH", Meaning::Nothing(NAT)),
    ("EDGEVPNBOOTSTRAPIFACE", Meaning::Nothing("peers are looked for on all interfaces but the overlay")),
    ("EDGEVPNMAXCONNS", Meaning::Nothing(NEIGHBOURS)),
    ("EDGEVPNLIBP2PLOGLEVEL", Meaning::Nothing("`c3os.loglevel` counts for all")),
    ("EDGEVPNPRIVKEYCACHE*", Meaning::Nothing("the node's key is always kept, in /usr/local/.c3os/identity")),
    ("EDGEVPNBLACKLIST", Meaning::Nothing(BAN)),
    ("EDGEVPNPEERGATE*", Meaning::Nothing(BAN)),
    ("PEERGUARD", Meaning::Nothing(BAN)),
    ("PEERGATE*", Meaning::Nothing(BAN)),
    ("LIMIT*", Meaning::Nothing(NEIGHBOURS)),
];

/// Why a setting that is declared without effect has none.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "p2p.dynamic_roles",
        "a role is never taken away because a machine is silent; `c3os.auto.ha.replace_after` replaces servers",
    ),
    (
        "kubevip.manifest_url",
        "the manifest is made for the version of kube-vip that this release was tested with",
    ),
    ("kubevip.static_pod", "kube-vip runs as a DaemonSet"),
    ("kubevip.version", "the version is the one that this release was tested with"),
    ("kubevip.image", "the image is the one that this release was tested with"),
];

/// Says that the setting at the reader's path has no effect, and why.
pub(super) fn without_effect(node: &Node, reader: &mut Reader) {
    let reason = WITHOUT_EFFECT.iter().find(|(path, _)| *path == reader.path()).map(|(_, reason)| *reason);
    reader.warning(node.place, "has no effect here", reason.map(str::to_owned));
}

/// Takes one file's `p2p` block for the `c3os` block that it stands for.
pub(super) fn adopt_p2p(p2p: P2p, c3os: &mut Option<C3os>, reader: &mut Reader) {
    let vpn = p2p.vpn.unwrap_or_default();
    if let Some(variables) = vpn.env {
        adopt_environment("p2p.vpn.env", variables, c3os, reader);
    }

    let c3os = c3os.get_or_insert_default();
    let mut adopt = Adopt { reader };
    adopt.setting("network_token", p2p.network_token, &mut c3os.network_token);
    adopt.setting("network_id", p2p.network_id, &mut c3os.network_id);
    adopt.setting("role", p2p.role, &mut c3os.role);
    adopt.setting("dns", p2p.dns, &mut c3os.dns);
    adopt.setting("loglevel", p2p.loglevel, &mut c3os.loglevel);
    let minimum =
        p2p.minimum_nodes.filter(|number| number.0 > 0).map(|number| super::scalar::Number(number.0));
    adopt.setting("minimum_nodes", minimum, &mut c3os.minimum_nodes);
    let dht = p2p.disable_dht.map(|disable| !disable);
    adopt.renamed("disable_dht", "discovery.dht", dht, &mut c3os.discovery.get_or_insert_default().dht);
    if let Some(dht) = dht {
        adopt.reader.origins.show("c3os.discovery.dht", if dht { "true" } else { "false" });
    }
    let ours: &mut Vpn = c3os.vpn.get_or_insert_default();
    adopt.setting("vpn.create", vpn.create, &mut ours.create);
    adopt.setting("vpn.use", vpn.used, &mut ours.used);

    let auto = p2p.auto.unwrap_or_default();
    if auto.enable == Some(false) && c3os.role.is_none() {
        adopt.renamed("auto.enable", "role", Some(RoleSetting::None), &mut c3os.role);
        adopt.reader.origins.show("c3os.role", "none");
    }
    let ha = auto.ha.unwrap_or_default();
    let ours: &mut Ha = c3os.auto.get_or_insert_default().ha.get_or_insert_default();
    if ha.enable == Some(false) {
        (ours.master_nodes, ours.external_db) = (None, None);
        return;
    }
    if ha.enable == Some(true) && ha.master_nodes.is_none() && ha.external_db.is_none() {
        let place = reader.place_of("p2p.auto.ha.enable");
        let refusal =
            Refusal::new("says nothing without `master_nodes`", "master_nodes: 2 makes three servers");
        return reader.spelled("c3os.auto.ha", "p2p.auto.ha.enable", |reader| reader.refuse(place, refusal));
    }
    let mut adopt = Adopt { reader };
    adopt.setting("auto.ha.master_nodes", ha.master_nodes, &mut ours.master_nodes);
    adopt.setting("auto.ha.external_db", ha.external_db, &mut ours.external_db);
}

struct Adopt<'a> {
    reader: &'a mut Reader,
}

impl Adopt<'_> {
    fn setting<T>(&mut self, path: &str, value: Option<T>, slot: &mut Option<T>) {
        self.renamed(path, path, value, slot);
    }

    fn renamed<T>(&mut self, from: &str, to: &str, value: Option<T>, slot: &mut Option<T>) {
        if value.is_some() {
            *slot = value;
            self.reader.origins.rename(&format!("p2p.{from}"), &format!("c3os.{to}"));
        }
    }
}

/// Takes one file's environment of the mesh program, which stands at `prefix`, for settings of ours.
pub(super) fn adopt_environment(
    prefix: &str,
    variables: Environment,
    c3os: &mut Option<C3os>,
    reader: &mut Reader,
) {
    let mut address = None;
    let mut dhcp = None;
    for (name, value) in variables.0 {
        let written = format!("{prefix}.{name}");
        let place = reader.place_of(&written);
        let value = value.trim().to_owned();
        reader.origins.remove(&written);
        if value.is_empty() {
            continue;
        }
        match meaning(&name) {
            Some(Meaning::Same(path)) => adopt(path, &written, Node::scalar(place, value), c3os, reader),
            Some(Meaning::Peers) => {
                let peers = value.split([',', ' ']).filter(|peer| !peer.is_empty());
                let peers = peers.map(|peer| Rc::new(Node::scalar(place, peer.to_owned()))).collect();
                let node = Node::list(place, peers);
                adopt(&["discovery", "bootstrap"], &written, node, c3os, reader);
            }
            Some(Meaning::Mtu) if value.parse::<u16>().is_ok_and(|mtu| mtu < 1280) => {
                reader.spelled(&written, &written, |reader| {
                    let hint = "IPv6 on the overlay needs 1280; the MTU is found out".to_owned();
                    reader.warning(place, "has no effect here", Some(hint));
                });
            }
            Some(Meaning::Mtu) => adopt(&["vpn", "mtu"], &written, Node::scalar(place, value), c3os, reader),
            Some(Meaning::Address) if name == "DHCP" => dhcp = Some((value, place, written)),
            Some(Meaning::Address) => address = Some((value, place, written)),
            Some(Meaning::Nothing(why)) => reader.spelled(&written, &written, |reader| {
                reader.warning(place, "has no effect here", Some(why.to_owned()));
            }),
            None => reader.spelled(&written, &written, |reader| {
                let known = VARIABLES.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('*'));
                let hint = match closest(&name, known) {
                    Some(better) => format!("did you mean `{better}`?"),
                    None => "it is no variable of the original's mesh program".to_owned(),
                };
                reader.warning(place, format!("{} has no effect here", shown(&name)), Some(hint));
            }),
        }
    }
    adopt_address(address, dhcp, c3os, reader);
}

/// A value, its place, and the key as written.
type Written = (String, Place, String);

/// With DHCP, which was the default, the original's `ADDRESS` gave the subnet to draw from; without, the address too.
fn adopt_address(
    address: Option<Written>,
    dhcp: Option<Written>,
    c3os: &mut Option<C3os>,
    reader: &mut Reader,
) {
    let fixed = match &dhcp {
        None => false,
        Some((value, place, written)) => match bool::parse(value) {
            Ok(dhcp) => !dhcp,
            Err(refusal) => {
                return reader.spelled("c3os.vpn.address", written, |reader| reader.refuse(*place, refusal));
            }
        },
    };
    match (address, dhcp) {
        (Some((value, place, written)), _) => match value.parse::<Ipv4Net>() {
            Ok(net) => {
                adopt(
                    &["vpn", "subnet"],
                    &written,
                    Node::scalar(place, net.trunc().to_string()),
                    c3os,
                    reader,
                );
                if fixed {
                    adopt(
                        &["vpn", "address"],
                        &written,
                        Node::scalar(place, net.addr().to_string()),
                        c3os,
                        reader,
                    );
                }
            }
            Err(_) => {
                let refusal = Refusal::new(
                    format!("{} is not an IPv4 address with the length of its prefix", shown(&value)),
                    "such as 10.1.0.7/24",
                );
                reader.spelled("c3os.vpn.address", &written, |reader| reader.refuse(place, refusal));
            }
        },
        (None, Some((_, place, written))) if fixed => reader.spelled(&written, &written, |reader| {
            let hint = "it fixes the address only together with ADDRESS; others are found without conflict"
                .to_owned();
            reader.warning(place, "has no effect here", Some(hint));
        }),
        (None, Some(_) | None) => {}
    }
}

fn meaning(name: &str) -> Option<Meaning> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    VARIABLES.iter().find(|(pattern, _)| fits(pattern)).map(|(_, meaning)| *meaning)
}

/// Reads `value` as the setting at `path` under `c3os`.
fn adopt(path: &[&str], written: &str, value: Node, c3os: &mut Option<C3os>, reader: &mut Reader) {
    let nested = path.iter().rev().fold(value, |value, key| Node::map_of(key, Rc::new(value)));
    reader.spelled("c3os", written, |reader| Setting::read(c3os, &nested, reader));
}
