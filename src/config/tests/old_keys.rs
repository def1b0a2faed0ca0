//! Files that were written for the original and for Kairos.

use super::{one, printed};
use crate::config::{LogLevel, RoleSetting, Severity};

/// Every variable of the original's mesh program up to 0.15.2.
const VARIABLES: &str = "API APILISTEN DHCP DHCPLEASEDIR ADDRESS IFACE ROUTER EGRESS EGRESSANNOUNCE DNSADDRESS DNSFORWARD \
    DNSCACHESIZE DNSFORWARDSERVER TRANSIENTCONN HEALTHCHECKINTERVAL HEALTHCHECKSCRUBINTERVAL HEALTHCHECKMAXINTERVAL \
    EDGEVPNCONFIG EDGEVPNTOKEN EDGEVPNTIMEOUT EDGEVPNMTU EDGEVPNPACKETMTU EDGEVPNCHANNELBUFFERSIZE EDGEVPNDHTINTERVAL \
    EDGEVPNLEDGERINTERVAL EDGEVPNLEDGERSYNCINTERVAL EDGEVPNLEDGERSTATE EDGEVPNNATRATELIMIT EDGEVPNNATRATELIMITGLOBAL \
    EDGEVPNNATRATELIMITPEER EDGEVPNNATRATELIMITINTERVAL EDGEVPNMAXCONNS EDGEVPNMAXSTREAMS EDGEVPNMDNS EDGEVPNDHT \
    EDGEVPNAUTORELAY EDGEVPNHOLEPUNCH EDGEVPNNATSERVICE EDGEVPNNATMAP EDGEVPNLOWPROFILE EDGEVPNLOWPROFILEVPN \
    EDGEVPNLOGLEVEL EDGEVPNLIBP2PLOGLEVEL EDGEVPNBOOTSTRAPPEERS EDGEVPNBLACKLIST EDGEVPNBOOTSTRAPIFACE \
    EDGEVPNAUTORELAYPEERS EDGEVPNAUTORELAYSTATICONLY EDGEVPNAUTORELAYV1 EDGEVPNAUTORELAYDISCOVERYINTERVAL EDGEVPNMPLEX \
    PEERGUARD PEERGATE PEERGATE_AUTOCLEAN PEERGATE_RELAXED PEERGATE_AUTH EDGEVPNPEERGATEINTERVAL LIMITENABLE LIMITFILE";

#[test]
fn every_variable_of_the_original_is_taken_for_a_setting_or_explained() {
    for name in VARIABLES.split_whitespace() {
        let value = match name {
            "ADDRESS" => "10.2.0.1/24",
            "DHCP" | "EDGEVPNMDNS" | "EDGEVPNDHT" => "true",
            "EDGEVPNMTU" => "1400",
            "IFACE" => "edgevpn0",
            "EDGEVPNBOOTSTRAPPEERS" => "/ip4/192.0.2.1/tcp/4001",
            "EDGEVPNLOGLEVEL" => "warn",
            _ => "x",
        };
        for text in [
            format!("vpn: {{{name}: \"{value}\"}}"),
            format!("p2p: {{vpn: {{env: {{{name}: \"{value}\"}}}}}}"),
        ] {
            let parsed = one(&text);
            assert!(!parsed.has_errors(), "{}", printed(&parsed));
            let taken = parsed
                .origins
                .iter()
                .any(|(path, origin)| path.starts_with("c3os.") && origin.written.ends_with(name));
            let explained = parsed.mistakes.iter().any(|mistake| {
                mistake.severity == Severity::Warning
                    && mistake.key.ends_with(name)
                    && mistake.message == "has no effect here"
            });
            assert!(taken != explained || (name == "DHCP" && !explained), "{text}: {}", printed(&parsed));
        }
    }
}

#[test]
fn variables_become_settings() {
    let parsed = one("
vpn:
  EDGEVPNTOKEN: t
  IFACE: edgevpn0
  EDGEVPNDHT: \"false\"
  EDGEVPNMDNS: false
  EDGEVPNMTU: 1300
  EDGEVPNLOGLEVEL: warn
  EDGEVPNBOOTSTRAPPEERS: /ip4/192.0.2.1/tcp/4001,/dnsaddr/example.org
");
    assert_eq!(printed(&parsed), "");
    let config = parsed.config;
    assert_eq!(config.network_token.unwrap().reveal(), "t");
    assert_eq!(config.vpn.interface, "edgevpn0");
    assert_eq!((config.discovery.dht, config.discovery.mdns, config.vpn.mtu), (false, false, Some(1300)));
    assert_eq!(config.loglevel, LogLevel::Warn);
    assert_eq!(config.discovery.bootstrap, ["/ip4/192.0.2.1/tcp/4001", "/dnsaddr/example.org"]);
}

#[test]
fn an_address_is_fixed_only_without_dhcp() {
    let vpn = |text: &str| one(text).config.vpn;
    let drawn = vpn("vpn: {ADDRESS: 10.2.0.9/16}");
    assert_eq!((drawn.subnet.to_string().as_str(), drawn.address), ("10.2.0.0/16", None));
    let fixed = vpn("vpn: {ADDRESS: 10.2.0.9/16, DHCP: 'false'}");
    assert_eq!((fixed.subnet.to_string().as_str(), fixed.address), ("10.2.0.0/16", "10.2.0.9".parse().ok()));
}

#[test]
fn the_single_node_of_the_originals_documentation_works() {
    let parsed = one("c3os: {network_token: t, role: master}\nvpn: {DHCP: 'false', ADDRESS: 10.1.0.2/24}");
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config.vpn.address, "10.1.0.2".parse().ok());
}

#[test]
fn the_first_installer_keys_are_those_of_install() {
    let parsed = one("c3os: {offline: true, device: /dev/sda, reboot: false, poweroff: true}");
    assert_eq!(printed(&parsed), "");
    let install = parsed.config.install;
    assert_eq!(
        (install.auto, install.device.as_str(), install.reboot, install.poweroff),
        (true, "/dev/sda", false, true)
    );
}

#[test]
fn kairos_block_is_ours() {
    let parsed = one("
p2p:
  network_token: t
  network_id: prod
  role: worker
  dns: true
  loglevel: debug
  minimum_nodes: 5
  disable_dht: true
  auto: { enable: true, ha: { enable: true, master_nodes: 4, external_db: x } }
  vpn: { create: false, use: false, env: { EDGEVPNMDNS: 'false' } }
");
    let config = parsed.config;
    assert_eq!(config.network_token.unwrap().reveal(), "t");
    assert_eq!(
        (config.network_id.as_str(), config.role, config.minimum_nodes),
        ("prod", RoleSetting::Worker, Some(5))
    );
    assert_eq!((config.dns, config.loglevel), (true, LogLevel::Debug));
    assert_eq!((config.discovery.dht, config.discovery.mdns), (false, false));
    assert_eq!((config.auto.additional_servers, config.auto.external_db.unwrap().reveal()), (4, "x"));
    assert_eq!((config.vpn.create, config.vpn.used_by_k3s), (false, false));
}

#[test]
fn kairos_switches_mean_what_they_meant() {
    assert_eq!(one("p2p: {minimum_nodes: 0}").config.minimum_nodes, None);
    assert_eq!(one("p2p: {auto: {enable: false}}").config.role, RoleSetting::None);
    assert_eq!(one("p2p: {role: master, auto: {enable: false}}").config.role, RoleSetting::Master);
    assert_eq!(one("p2p: {auto: {ha: {enable: false, master_nodes: 2}}}").config.auto.additional_servers, 0);
    assert!(one("p2p: {disable_dht: false}").config.discovery.dht);
    assert_eq!(one("kubevip: {eip: 192.168.1.2, enable: false}").config.kubevip.eip, None);
    let parsed = one(
        "kubevip: {eip: 192.168.1.2, enableARP: true}\ninstall: {image: x, grub_options: {}}\nk0s: {enabled: true}",
    );
    assert_eq!(printed(&parsed), "", "blocks that Kairos reads too may hold more");
}

#[test]
fn our_own_spelling_counts_wherever_it_stands() {
    for text in ["c3os: {role: worker}\np2p: {role: master}\n", "p2p: {role: master}\nc3os: {role: worker}\n"]
    {
        let parsed = one(text);
        assert_eq!(parsed.config.role, RoleSetting::Worker);
        assert_eq!(parsed.mistakes.len(), 1);
        assert_eq!(parsed.mistakes[0].severity, Severity::Warning);
    }
}
