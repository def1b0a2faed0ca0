//! What settings mean.

use std::time::Duration;

use super::{one, parse, printed, source};
use crate::config::{
    AtBoot, Auto, Config, Discovery, Install, K3s, Kubevip, LogLevel, RoleSetting, Severity, TokenText, Vpn,
};

#[test]
fn nothing_written_is_the_default() {
    let parsed = parse(&[], "");
    assert_eq!(parsed.config, Config::default());
    assert!(parsed.mistakes.is_empty() && !parsed.config.frozen);
}

#[test]
fn every_setting_arrives() {
    let id = crate::identity::NodeId::from_bytes([7; 32]);
    let parsed = one(&format!(
        "
c3os:
  network_token: dG9rZW4=
  network_id: dev-1
  role: master
  minimum_nodes: 3
  join: abc
  admin_peers: [{id}]
  dns: true
  loglevel: debug
  auto: {{ ha: {{ master_nodes: 2, external_db: 'mysql://x', replace_after: 1h30m }}, merge: true }}
  discovery: {{ mdns: false, dht: false, bootstrap: [/dnsaddr/example.org], listen_port: 4002 }}
  vpn: {{ create: true, use: false, interface: mesh0, subnet: 10.9.0.5/16, address: 10.9.0.5, mtu: 1400, port: 52000 }}
k3s: {{ args: [--x, 1], env: {{ A: 1, B: }}, replace_args: true, replace_env: true, embedded_registry: true, expose: true }}
k3s-agent: {{ args: [--y], env: {{ C: yes }}, replace_args: true, replace_env: true }}
kubevip: {{ eip: 192.168.1.200, interface: eth0 }}
install: {{ auto: true, device: /dev/vda, reboot: false, poweroff: true }}
"
    ));
    assert_eq!(printed(&parsed), "");
    let pairs =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let expected = Config {
        network_token: Some(TokenText::new("dG9rZW4=".to_owned())),
        network_id: "dev-1".parse().unwrap(),
        role: RoleSetting::Master,
        minimum_nodes: Some(3),
        join: Some("abc".to_owned()),
        admin_peers: Some(vec![id]),
        dns: true,
        loglevel: LogLevel::Debug,
        auto: Auto {
            additional_servers: 2,
            external_db: Some(TokenText::new("mysql://x".to_owned())),
            replace_after: Some(Duration::from_secs(5400)),
            merge: true,
        },
        discovery: Discovery {
            mdns: false,
            dht: false,
            bootstrap: vec!["/dnsaddr/example.org".to_owned()],
            listen_port: 4002,
        },
        vpn: Vpn {
            create: true,
            used_by_k3s: false,
            interface: "mesh0".to_owned(),
            subnet: "10.9.0.0/16".parse().unwrap(),
            address: Some("10.9.0.5".parse().unwrap()),
            mtu: Some(1400),
            port: 52000,
        },
        k3s: K3s {
            args: vec!["--x".to_owned(), "1".to_owned()],
            env: pairs(&[("A", "1"), ("B", "")]),
            replace_args: true,
            replace_env: true,
            enabled: false,
            embedded_registry: true,
            expose: true,
        },
        k3s_agent: K3s {
            args: vec!["--y".to_owned()],
            env: pairs(&[("C", "yes")]),
            replace_args: true,
            replace_env: true,
            ..K3s::default()
        },
        kubevip: Kubevip { eip: Some("192.168.1.200".to_owned()), interface: Some("eth0".to_owned()) },
        install: Install { auto: true, device: "/dev/vda".to_owned(), reboot: false, poweroff: true },
        frozen: false,
    };
    assert_eq!(parsed.config, expected);
    for (path, _) in parsed.origins.iter() {
        assert!(!path.starts_with('.'), "{path}");
    }
}

#[test]
fn the_block_as_the_design_writes_it_is_the_default() {
    let parsed = one(
        "
c3os:
  network_id: c3os
  dns: false
  loglevel: info
  auto: { ha: { replace_after: never }, merge: false }
  discovery: { mdns: true, dht: true, bootstrap: [], listen_port: 4001 }
  vpn: { create: true, use: true, interface: c3os0, subnet: 10.1.0.0/16, address: \"\", mtu: auto, port: 51900 }
k3s:        { args: [], env: {}, replace_args: false, replace_env: false, enabled: false, embedded_registry: false, expose: false }
k3s-agent:  { args: [], env: {}, replace_args: false, replace_env: false, enabled: false }
kubevip:    { eip: \"\", interface: \"\" }
install:    { auto: false, device: auto, reboot: true, poweroff: false }
",
    );
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config, Config::default());
}

#[test]
fn words_that_mean_the_same_are_all_understood() {
    let role = |word: &str| one(&format!("c3os: {{role: {word}}}")).config.role;
    assert_eq!([role("master"), role("server"), role("\"Master\"")], [RoleSetting::Master; 3]);
    assert_eq!([role("worker"), role("agent")], [RoleSetting::Worker; 2]);
    assert_eq!([role("auto"), role("\"\""), role("~")], [RoleSetting::Auto; 3]);
    assert_eq!([role("none"), role("'none'")], [RoleSetting::None; 2]);

    for word in ["true", "yes", "on", "True", "\"true\"", "1"] {
        assert!(one(&format!("c3os: {{dns: {word}}}")).config.dns, "{word}");
    }
    for word in ["false", "no", "off", "FALSE", "'false'", "0"] {
        let parsed = one(&format!("c3os: {{discovery: {{dht: {word}}}}}"));
        assert!(!parsed.config.discovery.dht, "{word}");
    }
    assert_eq!(one("c3os: {minimum_nodes: '3'}").config.minimum_nodes, Some(3));
    assert_eq!(one("c3os: {loglevel: fatal}").config.loglevel, LogLevel::Error);
}

#[test]
fn tokens_may_be_long_quoted_or_a_block() {
    let token = "b3RwOgogIGRodDoK".repeat(200);
    for text in [
        format!("network_token: {token}"),
        format!("network_token: \"{token}\""),
        format!("network_token: |\n    {token}"),
    ] {
        let parsed = one(&format!("c3os:\n  {text}\n"));
        assert_eq!(printed(&parsed), "");
        assert_eq!(parsed.config.network_token.unwrap().reveal(), token);
    }
}

#[test]
fn power_off_is_instead_of_a_reboot() {
    let install = one("install: {auto: true, poweroff: true}").config.install;
    assert!(install.auto && install.poweroff && !install.reboot);
}

#[test]
fn a_disk_is_never_a_guess() {
    let parsed = one("install: {auto: true, device: sda}");
    assert!(parsed.has_errors());
    assert!(!parsed.config.install.auto, "`auto` would pick another disk than the one that was meant");
    assert!(!one("c3os: {offline: true, device: sda}").config.install.auto);
    assert!(!one("install: {auto: true, device: /dev/sda, reboot: perhaps}").config.install.auto);
}

#[test]
fn servers_that_share_a_database_may_be_an_even_number() {
    let parsed = one("c3os: {network_token: t, auto: {ha: {master_nodes: 1, external_db: 'postgres://x'}}}");
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config.auto.additional_servers, 1);
}

#[test]
fn k3s_alone_next_to_a_mesh_without_roles_is_fine() {
    let parsed = one("c3os: {network_token: t, role: none}\nk3s: {enabled: true}");
    assert_eq!(printed(&parsed), "");
    assert!(parsed.config.k3s.enabled);

    let parsed = one("c3os: {network_token: t}\nk3s: {enabled: true}");
    assert!(!parsed.has_errors() && !parsed.config.frozen);
    assert!(!parsed.config.k3s.enabled, "one file for all machines must not make a cluster of each");
}

#[test]
fn an_empty_text_is_as_good_as_nothing() {
    let parsed = one(
        "c3os: {network_token: t, network_token_file: '', role: none, join: ''}\nkubevip: {eip: '', interface: ''}",
    );
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config.kubevip, Kubevip::default());
}

#[test]
fn pods_that_were_moved_leave_their_usual_place_free() {
    let parsed = one("c3os: {vpn: {subnet: 10.42.0.0/16}}\nk3s: {args: [--cluster-cidr=172.20.0.0/16]}");
    assert_eq!(printed(&parsed), "");
    assert!(one("c3os: {vpn: {subnet: 10.42.0.0/16}}").has_errors());
    assert!(!one("c3os: {role: none, vpn: {subnet: 10.42.0.0/16}}").has_errors());
}

#[test]
fn no_overlay_means_that_k3s_does_not_use_it() {
    let parsed = one("c3os: {vpn: {create: false}}");
    assert_eq!(printed(&parsed), "");
    assert!(!parsed.config.vpn.used_by_k3s);
    assert_eq!(one("c3os: {vpn: {create: false, use: true}}").mistakes[0].severity, Severity::Warning);
}

#[test]
fn settings_that_decide_roles_freeze_the_machine_and_others_do_not() {
    for text in [
        "c3os: {role: boss}",
        "c3os: {network_id: Dev}",
        "c3os: {minimum_nodes: 0}",
        "c3os: {join: [a]}",
        "c3os: {auto: yes}",
        "c3os: {auto: {ha: {master_nodes: many}}}",
        "c3os: {vpn: {subnet: x}}",
        "c3os: {vpn: {address: 192.168.0.1}}",
        "c3os: {vpn: {create: perhaps}}",
        "c3os: {role: master, role: worker}",
        "p2p: {role: boss}",
        "p2p: {auto: {ha: {master_nodes: 3}}}",
        "vpn: {DHCP: perhaps}",
        "k3s: {args: x}",
        "k3s-agent: {env: [x]}",
    ] {
        let parsed = one(text);
        assert!(parsed.config.frozen, "{text}");
        assert!(parsed.mistakes.iter().any(|mistake| mistake.at_boot == AtBoot::Frozen), "{text}");
    }
    for text in [
        "c3os: {dns: perhaps}",
        "c3os: {loglevel: loud}",
        "c3os: {discovery: {listen_port: x}}",
        "c3os: {vpn: {mtu: 1, port: x, interface: 'a b'}}",
        "c3os: {rol: master}",
        "kubevip: {eip: x}",
        "install: {device: x}",
        "k3s-worker: {}",
    ] {
        assert!(!one(text).config.frozen, "{text}");
    }
}

#[test]
fn secrets_are_in_no_message_no_explanation_and_no_debug_output() {
    const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2";
    for text in [
        "c3os: {network_token: SECRET}",
        "c3os: {network_token: {SECRET: SECRET}}",
        "c3os: {network_token: [SECRET]}",
        "c3os: {SECRET: SECRET}",
        "c3os: {SECRET: 1, SECRET: 2}",
        "c3os: SECRET",
        "SECRET",
        "SECRET: SECRET",
        "network_token: SECRET",
        "c3os: {role: SECRET, network_id: SECRET, dns: SECRET, loglevel: SECRET, minimum_nodes: SECRET}",
        "c3os: {vpn: {subnet: SECRET, address: SECRET, mtu: SECRET, interface: SECRET}, admin_peers: [SECRET]}",
        "c3os: {discovery: {bootstrap: [SECRET]}, auto: {ha: {external_db: SECRET, replace_after: SECRET}}}",
        "c3os: {network_token_file: SECRET, device: SECRET}",
        "c3os:\n  network_token: \"SECRET\n",
        "c3os:\n  network_token: *SECRET\n",
        "c3os:\n  network_token: SECRET: SECRET\n",
        "k3s: {args: [--token, SECRET, --token=SECRET], env: {K3S_TOKEN: SECRET, SECRET: x}}",
        "vpn: {EDGEVPNTOKEN: SECRET, ADDRESS: SECRET, IFACE: SECRET, SECRET: SECRET, EDGEVPNBOOTSTRAPPEERS: SECRET}",
        "p2p: {network_token: SECRET, auto: {ha: {external_db: SECRET}}, vpn: {env: {EDGEVPNTOKEN: SECRET}}}",
        "kubevip: {eip: SECRET}",
        "install: {device: SECRET}",
    ] {
        let parsed = one(&text.replace("SECRET", SECRET));
        let mut config = parsed.config.clone();
        // Names of things; whoever writes a secret there publishes it.
        config.join = None;
        let all = format!("{}{}{config:?}", printed(&parsed), parsed.origins);
        assert!(!all.contains("hunter2-hunter2-hunter2-hunter2-"), "{text}:\n{all}");
    }
    let parsed =
        parse(&[source("a", "")], &format!("c3os.network_token={SECRET} c3os.{SECRET}=x c3os.role={SECRET}"));
    assert!(!printed(&parsed).contains(SECRET));
}

#[test]
fn a_key_of_another_block_is_found_there_and_a_slip_here() {
    let hint = |text: &str| one(text).mistakes[0].hint.clone().unwrap();
    assert_eq!(hint("c3os: {mdns: true}"), "did you mean `c3os.discovery.mdns`?");
    assert_eq!(hint("c3os: {embeded_registry: true}").split(':').next(), Some("known here"));
    assert_eq!(hint("k3s: {embeded_registry: true}"), "did you mean `embedded_registry`?");
    assert_eq!(hint("kubevip: {enabled: true}"), "did you mean `enable`?");
    assert_eq!(hint("p2p: {subnet: 10.1.0.0/16}"), "did you mean `c3os.vpn.subnet`?");
}
