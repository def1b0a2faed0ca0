//! Several files, the kernel command line, and files that are broken: which setting counts, and where it comes from.

use super::{Source, files, one, parse, printed, source};
use crate::config::{AtBoot, MAX_FILE_BYTES, RoleSetting};

#[test]
fn maps_merge_lists_replace_and_the_last_file_counts() {
    let parsed = parse(
        &[
            source(
                "/system/oem/10.yaml",
                "c3os: {network_token: one, role: worker, vpn: {port: 60000, interface: mesh0}}\n\
                 k3s: {args: [--a, --b], env: {A: '1', B: '2'}}\n",
            ),
            source("/oem/20.yaml", "stages: {}\n"),
            source(
                "/oem/30.yaml",
                "c3os: {role: master, vpn: {port: 60010}}\nk3s: {args: [--c], env: {B: '3', C: '4'}}\n",
            ),
        ],
        "",
    );
    assert_eq!(printed(&parsed), "");
    let config = parsed.config;
    assert_eq!(config.network_token.unwrap().reveal(), "one");
    assert_eq!(config.role, RoleSetting::Master);
    assert_eq!((config.vpn.interface.as_str(), config.vpn.port), ("mesh0", 60010));
    assert_eq!(config.k3s.args, ["--c"]);
    let env: Vec<(&str, &str)> = config.k3s.env.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(env, [("A", "1"), ("B", "3"), ("C", "4")]);
}

#[test]
fn explain_names_the_file_of_each_setting_and_masks_secrets() {
    let parsed = parse(
        &[
            source("/system/oem/10.yaml", "c3os:\n  network_token: never-shown\n  role: worker\n"),
            source("/oem/20.yaml", "p2p:\n  role: master\nk3s:\n  env:\n    K3S_TOKEN: never-shown\n"),
        ],
        "c3os.dns=true",
    );
    assert_eq!(
        parsed.origins.to_string(),
        "\
c3os.dns: true                           kernel command line:1
c3os.network_token: ***                  /system/oem/10.yaml:2
c3os.role: master                        /oem/20.yaml:2, written p2p.role, overrides /system/oem/10.yaml:3
k3s.env.K3S_TOKEN: ***                   /oem/20.yaml:5
"
    );
    assert_eq!(parsed.origins.get("c3os.role").unwrap().column, 9);
}

#[test]
fn nothing_written_after_a_key_leaves_an_earlier_file_alone_and_an_empty_text_unsets() {
    let first = source("a", "c3os: {network_token: t, role: worker, join: abc}");
    let parsed = parse(&[first, source("b", "c3os:\n  role:\n  join: \"\"\n  vpn:\nk3s:\n")], "");
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config.role, RoleSetting::Worker);
    assert_eq!(parsed.config.join, None);
}

#[test]
fn anchors_aliases_and_merge_keys_work_across_blocks() {
    let parsed = one(
        "x-ours: &ours\n  dns: true\n  role: worker\nc3os:\n  <<: *ours\n  role: master\n  vpn: {<<: [{mtu: 1400}, \
                      {mtu: 1300, port: 60000}]}\n",
    );
    assert_eq!(printed(&parsed), "");
    assert!(parsed.config.dns);
    assert_eq!(parsed.config.role, RoleSetting::Master);
    assert_eq!((parsed.config.vpn.mtu, parsed.config.vpn.port), (Some(1400), 60000));
}

#[test]
fn every_header_is_fine() {
    for header in
        ["#cloud-config\n", "#c3os-config  \r\n", "#node-config\n---\n", "", "\u{feff}#cloud-config\n"]
    {
        let parsed = one(&format!("{header}c3os:\n  role: worker\n"));
        assert_eq!(printed(&parsed), "", "{header:?}");
        assert_eq!(parsed.config.role, RoleSetting::Worker, "{header:?}");
    }
}

#[test]
fn scripts_and_files_of_others_are_left_alone() {
    for text in [
        "#!/bin/sh\nc3os: {[\n",
        "",
        "# nothing\n",
        "---\n...\n",
        "stages:\n  boot: [{name: a}, {name: a}]\nk0s: {a: b}\n",
    ] {
        let parsed = one(text);
        assert_eq!(printed(&parsed), "", "{text:?}");
        assert_eq!(parsed.config, crate::config::Config::default());
    }
}

#[test]
fn the_kernel_command_line_counts_over_files() {
    let file = source("a", "c3os: {network_token: t, role: worker}\ninstall: {auto: false}\n");
    let line = "BOOT_IMAGE=/vmlinuz quiet c3os.role=master \"c3os.discovery.bootstrap=[/ip4/192.0.2.1/tcp/4001, \
                /dnsaddr/example.org]\" install.auto c3os.reset rd.cos.disable vpn.EDGEVPNDHT=false console=ttyS0";
    let parsed = parse(&[file], line);
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.config.role, RoleSetting::Master);
    assert_eq!(parsed.config.discovery.bootstrap, ["/ip4/192.0.2.1/tcp/4001", "/dnsaddr/example.org"]);
    assert!(parsed.config.install.auto && !parsed.config.discovery.dht);
}

#[test]
fn mistakes_on_the_kernel_command_line_have_a_place_and_secrets_are_refused() {
    let parsed = parse(
        &[source("a", "c3os: {network_token: of-the-file}")],
        "c3os.rol=master p2p.network_token=never-shown c3os.auto.ha.external_db=never-shown c3os.dns=[x c3os.role=boss\n",
    );
    assert_eq!(
        printed(&parsed),
        "\
kernel command line:1:1: error: c3os.rol: unknown key `rol`
  hint: did you mean `role`?
kernel command line:1:17: error: p2p.network_token: a secret on the kernel command line, where every program can read it
  hint: write it into a file under /oem; this one has no effect
kernel command line:1:47: error: c3os.auto.ha.external_db: a secret on the kernel command line, where every program can read it
  hint: write it into a file under /oem; this one has no effect
kernel command line:1:84: error: c3os.dns: not YAML: unclosed bracket '['
  hint: a list is written as in YAML: [a,b]
kernel command line:1:96: error: c3os.role: `boss` is not a role
  hint: one of master, worker, auto, none, server, agent
"
    );
    assert_eq!(parsed.config.network_token.unwrap().reveal(), "of-the-file");
    assert_eq!(parsed.config.auto.external_db, None);

    let parsed = parse(&[], "k3s.env.K3S_TOKEN=never-shown c3os.network_token_file=/oem/token");
    assert_eq!((parsed.mistakes.len(), parsed.mistakes[0].key.as_str()), (1, "k3s.env.K3S_TOKEN"));
    assert!(parsed.config.k3s.env.is_empty());
    assert_eq!(parsed.token_file.as_deref(), Some("/oem/token"));
}

/// Files of `bad` that are broken, or hold something that decides roles and was not understood.
#[test]
fn a_machine_with_a_broken_file_still_joins_the_mesh_and_decides_nothing() {
    let token_of = |name: &str| {
        let (path, text) =
            files("tests/fixture/config/bad", ".yaml").into_iter().find(|(path, _)| path == name).unwrap();
        let parsed = parse(&[Source { path, text }], "");
        assert!(parsed.has_errors());
        (parsed.config.network_token.map(|token| token.reveal().to_owned()), parsed.config.frozen)
    };
    let joins_frozen = (Some("dG9rZW4=".to_owned()), true);
    for name in [
        "bad-indentation.yaml",
        "broken-before-the-token.yaml",
        "colon-in-value.yaml",
        "missing-quote.yaml",
        "unclosed-bracket.yaml",
        "unknown-alias.yaml",
        "alias-in-itself.yaml",
        "merge-bomb.yaml",
        "too-deep.yaml",
    ] {
        assert_eq!(token_of(name), joins_frozen, "{name}");
    }
    assert_eq!(token_of("tabs.yaml"), (Some("never-shown".to_owned()), true));
    // Readable, and the setting that is wrong decides roles.
    assert_eq!(token_of("windows-newlines.yaml"), joins_frozen);
    assert_eq!(token_of("even-servers.yaml"), (Some("x".to_owned()), true));
    // What is wrong decides nothing: that part is off, all else as written.
    assert_eq!(token_of("port-taken.yaml"), (Some("x".to_owned()), false));
    assert_eq!(token_of("not-utf8.yaml"), (Some("dG9rZW4=".to_owned()), false));
    assert_eq!(token_of("kubevip-address.yaml"), (Some("x".to_owned()), false));
}

#[test]
fn a_broken_file_of_others_stops_nothing() {
    let parsed = parse(
        &[source("/oem/10_stages.yaml", "stages: [\n"), source("/oem/90.yaml", "c3os: {network_token: t}")],
        "",
    );
    assert!(!parsed.config.frozen);
    assert_eq!(parsed.mistakes[0].at_boot, AtBoot::Ignored);
    assert_eq!(parsed.config.network_token.unwrap().reveal(), "t");
}

#[test]
fn an_unreadable_token_is_the_one_thing_that_keeps_a_machine_out() {
    let parsed = one("c3os:\n  network_token: [a]\n");
    assert_eq!(parsed.mistakes[0].at_boot, AtBoot::NoMesh);
    assert_eq!(parsed.config.network_token, None);

    let mut parsed = one("p2p:\n  network_token: no-token\n");
    parsed.refuse(
        "c3os.network_token",
        AtBoot::NoMesh,
        "cut short".to_owned(),
        Some("copy all of it".to_owned()),
    );
    assert_eq!(
        printed(&parsed),
        "/oem/config.yaml:2:18: error: p2p.network_token: cut short\n  hint: copy all of it\n"
    );
}

#[test]
fn a_token_file_is_for_the_caller_to_read_unless_there_is_a_token() {
    let parsed = one("c3os:\n  network_token_file: /oem/token\n");
    assert_eq!(printed(&parsed), "");
    assert_eq!(parsed.token_file.as_deref(), Some("/oem/token"));

    let parsed = one("c3os:\n  network_token_file: /oem/token\n  network_token: t\n");
    assert_eq!(parsed.token_file, None);
    assert_eq!(parsed.config.network_token.unwrap().reveal(), "t");
}

#[test]
fn a_large_file_is_refused_unread() {
    let huge = |start: &str| {
        let mut text = start.as_bytes().to_vec();
        text.resize(MAX_FILE_BYTES + 1, b'x');
        parse(&[Source { path: "huge.yaml".to_owned(), text }], "")
    };
    let parsed = huge("c3os:\n  role: master\n# ");
    assert_eq!(
        printed(&parsed),
        "huge.yaml:1:1: error: larger than 1 MB, so nothing of it is read\n  \
         hint: a configuration is a page or two: put files and images elsewhere\n"
    );
    assert!(parsed.config.frozen);
    assert!(!huge("stages:\n").config.frozen, "a large file of others is theirs");
}

#[test]
fn more_mistakes_than_anybody_reads_are_counted() {
    let keys: String = (0..300).map(|n| format!("  unknown{n}: 1\n")).collect();
    let parsed = one(&format!("c3os:\n  role: worker\n{keys}  minimum_nodes: none\n"));
    assert_eq!(parsed.mistakes.len(), 101);
    assert!(parsed.mistakes.last().unwrap().message.contains("201 more"));
    assert!(parsed.config.frozen, "the one that matters was not lost");
}
