//! Plans compared with reviewed files, byte by byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::*;
use crate::{config::TokenText, identity::NodeId};

const CA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn facts() -> ClusterFacts {
    ClusterFacts {
        server_address: None,
        server_up: false,
        ca_hash: None,
        server_token: Some(Secret::new("server-secret")),
        agent_token: Some(Secret::new("agent-secret")),
    }
}

fn joining() -> ClusterFacts {
    ClusterFacts {
        server_address: Some(Ipv4Addr::new(10, 1, 3, 4)),
        server_up: true,
        ca_hash: Some(CA.parse().unwrap()),
        ..facts()
    }
}

fn machine() -> Machine {
    Machine {
        services: ServiceManager::Systemd,
        k3s_binary: Some("/usr/bin/k3s".to_owned()),
        lan_address: Some(Ipv4Addr::new(192, 168, 1, 7)),
        clock_before_build: false,
        k3s_has_state: false,
    }
}

fn assignment(role: Role) -> Assignment {
    Assignment {
        node: NodeId::from_bytes([7; 32]),
        role,
        cluster_id: ClusterId::from_bytes([0x4d; 16]),
        address: Ipv4Addr::new(10, 1, 22, 7),
        name: "node-a".to_owned(),
        epoch: 3,
    }
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn check(situation: &str, plan: &Plan) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/k3s").join(situation);
    assert_eq!(
        summary(plan),
        fs::read_to_string(directory.join("plan.txt")).unwrap(),
        "{situation}: plan.txt"
    );
    let mut expected = files_below(&directory, &directory);
    expected.remove("/plan.txt");
    let planned: BTreeSet<String> = plan.files.iter().map(|file| file.path.to_owned()).collect();
    assert_eq!(planned, expected.keys().cloned().collect(), "{situation}: paths");
    for file in &plan.files {
        let text = String::from_utf8(file.content.bytes().to_vec()).unwrap();
        assert_eq!(text, expected[file.path], "{situation}: {}", file.path);
    }
}

fn summary(plan: &Plan) -> String {
    let mut text = String::new();
    for file in &plan.files {
        let _ = writeln!(text, "{:04o} {}", file.mode, file.path);
    }
    for path in &plan.remove {
        let _ = writeln!(text, "remove {path}");
    }
    for unit in &plan.units {
        let enabled = if unit.enabled { "enabled" } else { "disabled" };
        let started = if unit.started { "started" } else { "stopped" };
        let _ = writeln!(text, "unit {} {enabled} {started}", unit.name);
    }
    for wait in &plan.waits_for {
        let _ = writeln!(text, "{wait}");
    }
    text
}

fn files_below(path: &Path, top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, top));
        } else {
            let name = format!("/{}", path.strip_prefix(top).unwrap().display());
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_first_server_gets_the_reviewed_files() {
    check("server", &plan(&Config::default(), &assignment(Role::Server), &facts(), &machine()));
}

#[test]
fn a_worker_gets_the_reviewed_files_and_a_token_that_pins_the_ca() {
    check("worker", &plan(&Config::default(), &assignment(Role::Worker), &joining(), &machine()));
}

#[test]
fn a_worker_whose_server_is_not_up_has_its_files_and_no_unit_running() {
    let early = ClusterFacts { server_up: false, ca_hash: None, ..joining() };
    check("worker-waiting", &plan(&Config::default(), &assignment(Role::Worker), &early, &machine()));
}

#[test]
fn the_first_of_several_servers_starts_etcd() {
    let mut config = Config::default();
    config.auto.additional_servers = 2;
    config.kubevip.eip = Some("192.168.1.50".to_owned());
    config.kubevip.interface = Some("eth0".to_owned());
    config.k3s.embedded_registry = true;
    config.k3s.args = texts(&["--disable traefik,servicelb", "--kubelet-arg", "\"max-pods=50\""]);
    config.k3s.env = pairs(&[("HTTP_PROXY", "http://proxy.example:3128"), ("QUOTED", "a \"b\" \\ $HOME")]);
    check("server-ha-first", &plan(&config, &assignment(Role::Server), &facts(), &machine()));
}

#[test]
fn a_further_server_joins_the_first_whose_ca_it_knows() {
    let mut config = Config::default();
    config.auto.additional_servers = 2;
    check("server-ha-joining", &plan(&config, &assignment(Role::Server), &joining(), &machine()));
    let early = ClusterFacts { server_up: false, ca_hash: None, ..joining() };
    let waiting = plan(&config, &assignment(Role::Server), &early, &machine());
    assert_eq!(waiting.waits_for, [Wait::ServerUp]);
}

#[test]
fn with_an_external_database_servers_meet_there() {
    let mut config = Config::default();
    config.auto.additional_servers = 2;
    config.auto.external_db = Some(TokenText::new("postgres://k3s:pa\"ss@db.example:5432/k3s".to_owned()));
    check("server-database", &plan(&config, &assignment(Role::Server), &joining(), &machine()));
}

#[test]
fn off_the_mesh_k3s_uses_the_lan_address_and_its_own_network() {
    for (create, used_by_k3s) in [(true, false), (false, true), (false, false)] {
        let mut config = Config::default();
        config.vpn.create = create;
        config.vpn.used_by_k3s = used_by_k3s;
        let machine = Machine { k3s_binary: Some("/usr/local/bin/k3s".to_owned()), ..machine() };
        check("server-lan", &plan(&config, &assignment(Role::Server), &facts(), &machine));
    }
}

#[test]
fn openrc_gets_the_same_by_its_own_means() {
    let mut config = Config::default();
    config.k3s_agent.args = texts(&["--node-label", "\"zone=a b\"", "--kubelet-arg=$X"]);
    config.k3s_agent.env = pairs(&[("HTTP_PROXY", "http://it's.example:3128")]);
    let machine = Machine { services: ServiceManager::OpenRc, ..machine() };
    check("worker-openrc", &plan(&config, &assignment(Role::Worker), &joining(), &machine));
}

#[test]
fn replaced_arguments_and_environment_are_the_users_alone_and_nothing_is_waited_for() {
    let mut config = Config::default();
    config.k3s_agent.replace_args = true;
    config.k3s_agent.replace_env = true;
    config.k3s_agent.args = texts(&["--node-ip", "192.0.2.7"]);
    config.k3s_agent.env = pairs(&[("K3S_URL", "https://192.0.2.1:6443"), ("K3S_TOKEN", "mine")]);
    let nothing = ClusterFacts::default();
    check("worker-replaced", &plan(&config, &assignment(Role::Worker), &nothing, &machine()));
}

#[test]
fn replaced_arguments_alone_leave_the_membership() {
    let mut config = Config::default();
    config.k3s_agent.replace_args = true;
    let plan = plan(&config, &assignment(Role::Worker), &joining(), &machine());
    let settings = std::str::from_utf8(plan.files[0].content.bytes()).unwrap();
    assert!(settings.contains("server:") && settings.contains("token-file:"));
    assert!(!settings.contains("node-ip") && !settings.contains("flannel"));
}

#[test]
fn a_first_server_waits_for_a_clock_that_is_set_and_a_running_cluster_does_not() {
    let early = Machine { clock_before_build: true, ..machine() };
    let config = Config::default();
    let first = plan(&config, &assignment(Role::Server), &facts(), &early);
    assert_eq!(first.waits_for, [Wait::Clock]);
    assert!(!first.units.iter().any(|unit| unit.started));
    let again = Machine { k3s_has_state: true, ..early };
    assert!(plan(&config, &assignment(Role::Server), &facts(), &again).waits_for.is_empty());
}

#[test]
fn a_server_without_its_tokens_waits_for_them() {
    let config = Config::default();
    let plan = plan(&config, &assignment(Role::Server), &ClusterFacts::default(), &machine());
    assert_eq!(plan.waits_for, [Wait::ServerToken, Wait::AgentToken]);
    let files: Vec<_> = plan.files.iter().map(|file| file.path).collect();
    assert!(!files.iter().any(|path| path.ends_with("-token")), "{files:?}");
    assert!(!plan.remove.contains(&settings::SERVER_TOKEN), "one from before may be in use");
}

#[test]
fn exposing_k3s_leaves_its_ports_open() {
    let mut config = Config::default();
    config.k3s.expose = true;
    let plan = plan(&config, &assignment(Role::Server), &facts(), &machine());
    assert_eq!(plan.ports, Ports::Open);
    assert!(plan.remove.contains(&ports::PATH));
}

#[test]
fn k3s_on_its_own_has_the_users_arguments_and_nothing_of_ours() {
    let mut config = Config::default();
    assert_eq!(plan_alone(&config, &machine()), None);
    config.k3s.enabled = true;
    config.k3s.args = texts(&["--disable=traefik"]);
    let plan = plan_alone(&config, &machine()).unwrap();
    let text = std::str::from_utf8(plan.files[0].content.bytes()).unwrap();
    assert_eq!(
        text,
        format!("{MARK}[Service]\nExecStart=\nExecStart=/usr/bin/k3s server --disable=traefik\n")
    );
    assert_eq!(plan.applied, None);
}

#[test]
fn a_line_break_in_an_argument_or_a_name_starts_no_new_setting() {
    let mut config = Config::default();
    config.k3s.args = texts(&["--disable\nExecStartPost=/bin/evil", "a\r\n"]);
    config.k3s.env = pairs(&[("A B", "x"), ("C\nD", "y"), ("", "z")]);
    let plan = plan(&config, &assignment(Role::Server), &facts(), &machine());
    let text = |path: &str| {
        let file = plan.files.iter().find(|file| file.path == path)?;
        Some(std::str::from_utf8(file.content.bytes()).unwrap())
    };
    let unit = text("/etc/systemd/system/k3s.service.d/50-c3os.conf").unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/k3s server --disable ExecStartPost=/bin/evil a\n"), "{unit}");
    assert_eq!(text("/etc/sysconfig/k3s"), None, "none of them is a name");
}

/// Flags of `k3s server` and `k3s agent` in 1.33 and 1.34 that this program may use as settings.
const SERVER_KEYS: [&str; 14] = [
    "node-name",
    "node-ip",
    "flannel-iface",
    "flannel-backend",
    "tls-san",
    "embedded-registry",
    "server",
    "token-file",
    "agent-token-file",
    "cluster-init",
    "datastore-endpoint",
    "disable",
    "node-label",
    "node-taint",
];
const AGENT_KEYS: [&str; 7] =
    ["node-name", "node-ip", "flannel-iface", "server", "token-file", "node-label", "node-taint"];

#[test]
fn every_setting_in_the_fixtures_is_a_flag_of_k3s() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/k3s");
    for entry in fs::read_dir(fixtures).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let allowed: &[&str] = if name.starts_with("server") { &SERVER_KEYS } else { &AGENT_KEYS };
        let text =
            fs::read_to_string(entry.path().join("etc/rancher/k3s/config.yaml.d/50-c3os.yaml")).unwrap();
        let settings: Option<BTreeMap<String, serde_json::Value>> = serde_yaml::from_str(&text).unwrap();
        for key in settings.unwrap_or_default().keys() {
            assert!(allowed.contains(&key.trim_end_matches('+')), "{name}: {key}");
        }
    }
}
