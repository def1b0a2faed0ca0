//! Plans carried out on a directory that stands for a machine, with a service manager that writes down what it is told.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::{
    address::Lease,
    config::Config,
    election::{Assignment, Role},
    identity::NodeId,
    k3s::{ClusterFacts, Machine, Plan, Secret, ServiceManager, plan},
    token::MeshId,
};

const BLUE: &str = "b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1";
const RED: &str = "edededededededededededededededed";

/// An address that this machine had.
pub(super) fn lease() -> Lease {
    Lease {
        mesh_id: MeshId::from_bytes([7; 32]),
        v4: Ipv4Addr::new(10, 1, 22, 7),
        attempt: 0,
        confirmed: true,
        frozen: false,
    }
}

/// Makes the n-th change of the disk fail, as a full disk would, and all after it.
#[derive(Debug)]
pub(super) struct Faults {
    left: AtomicUsize,
}

impl Default for Faults {
    fn default() -> Self {
        Self { left: AtomicUsize::new(usize::MAX) }
    }
}

impl Faults {
    pub(super) fn fail_after(&self, changes: usize) {
        self.left.store(changes, Ordering::SeqCst);
    }

    pub(super) fn heal(&self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
    }

    pub(super) fn step(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if left != usize::MAX {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// A service manager that does as it is told at once. Its changes count as changes of the disk, so they fail too.
struct Recorder {
    root: Root,
    kind: ServiceManager,
    units: Mutex<BTreeMap<String, UnitStatus>>,
    ports: Mutex<bool>,
    /// The drop-ins as the manager read them last.
    read: Mutex<Vec<Option<Vec<u8>>>>,
    log: Mutex<Vec<String>>,
}

impl Recorder {
    fn new(root: &Root) -> Self {
        let off = UnitStatus { state: UnitState::Stopped, enabled: false, stale: false };
        let units = ["k3s", "k3s-agent"].map(|unit| (unit.to_owned(), off));
        Self {
            root: root.clone(),
            kind: ServiceManager::Systemd,
            units: Mutex::new(units.into()),
            ports: Mutex::new(false),
            read: Mutex::new(vec![None, None]),
            log: Mutex::default(),
        }
    }

    fn did(&self, what: &str) -> Result<(), HostError> {
        self.root
            .step()
            .map_err(|error| HostError::Command { command: what.to_owned(), failure: error.to_string() })?;
        self.log.lock().unwrap().push(what.to_owned());
        Ok(())
    }

    fn on_disk(&self) -> Vec<Option<Vec<u8>>> {
        let drop_in = |unit| self.root.path(format!("/etc/systemd/system/{unit}.service.d/50-c3os.conf"));
        ["k3s", "k3s-agent"].map(|unit| fs::read(drop_in(unit)).ok()).to_vec()
    }

    fn set(&self, unit: &str, state: UnitState) {
        self.units.lock().unwrap().get_mut(unit).unwrap().state = state;
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn units(&self) -> BTreeMap<String, UnitStatus> {
        self.units.lock().unwrap().clone()
    }
}

impl Services for Recorder {
    fn kind(&self) -> ServiceManager {
        self.kind
    }

    fn status(&self, unit: &str) -> Result<UnitStatus, HostError> {
        let missing = UnitStatus { state: UnitState::Missing, enabled: false, stale: false };
        let stale = *self.read.lock().unwrap() != self.on_disk();
        let known = self.units.lock().unwrap().get(unit).copied();
        Ok(known.map_or(missing, |status| UnitStatus { stale, ..status }))
    }

    fn reload_files(&self) -> Result<(), HostError> {
        self.did("reload")?;
        *self.read.lock().unwrap() = self.on_disk();
        Ok(())
    }

    fn set_enabled(&self, unit: &str, enabled: bool) -> Result<(), HostError> {
        self.did(&format!("{} {unit}", if enabled { "enable" } else { "disable" }))?;
        self.units.lock().unwrap().get_mut(unit).unwrap().enabled = enabled;
        Ok(())
    }

    fn start(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("start {unit}"))?;
        self.set(unit, UnitState::Active);
        Ok(())
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("stop {unit}"))?;
        self.set(unit, UnitState::Stopped);
        Ok(())
    }

    fn restart(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("restart {unit}"))?;
        self.set(unit, UnitState::Active);
        Ok(())
    }

    fn nudge(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("nudge {unit}"))
    }

    fn run_stage(&self, _root: &Root, stage: &str) -> Result<(), HostError> {
        self.did(&format!("stage {stage}"))
    }

    fn ports_closed(&self) -> Result<bool, HostError> {
        Ok(*self.ports.lock().unwrap())
    }

    fn close_ports(&self, rules: &Path) -> Result<(), HostError> {
        assert!(rules.is_file());
        self.did("close ports")?;
        *self.ports.lock().unwrap() = true;
        Ok(())
    }

    fn open_ports(&self) -> Result<(), HostError> {
        self.did("open ports")?;
        *self.ports.lock().unwrap() = false;
        Ok(())
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    root: Root,
    services: Recorder,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path());
    put(&root, "/usr/bin/k3s", "#!/bin/sh\n");
    put(&root, "/etc/hostname", "node-a\n");
    let services = Recorder::new(&root);
    Bench { _directory: directory, root, services }
}

fn put(root: &Root, path: &str, text: &str) {
    let path = root.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn facts() -> ClusterFacts {
    ClusterFacts {
        server_address: None,
        server_up: true,
        ca_hash: Some("ab".repeat(32).parse().unwrap()),
        server_token: Some(Secret::new("server-secret")),
        agent_token: Some(Secret::new("agent-secret")),
    }
}

fn planned(role: Role, cluster: &str, config: &Config, facts: &ClusterFacts) -> Plan {
    let assignment = Assignment {
        node: NodeId::from_bytes([7; 32]),
        role,
        cluster_id: cluster.parse().unwrap(),
        address: Ipv4Addr::new(10, 1, 22, 7),
        name: "node-a".to_owned(),
        epoch: 1,
    };
    let machine = Machine {
        services: ServiceManager::Systemd,
        k3s_binary: Some("/usr/bin/k3s".to_owned()),
        lan_address: None,
        clock_before_build: false,
        k3s_has_state: false,
    };
    plan(config, &assignment, facts, &machine)
}

fn server() -> Plan {
    planned(Role::Server, BLUE, &Config::default(), &facts())
}

fn worker() -> Plan {
    let facts = ClusterFacts { server_address: Some(Ipv4Addr::new(10, 1, 3, 4)), ..facts() };
    planned(Role::Worker, BLUE, &Config::default(), &facts)
}

/// Every file under the root but the program's: path, mode, content; a link's content is where it leads.
fn disk(root: &Root) -> BTreeMap<String, (u32, Vec<u8>)> {
    fn walk(path: &Path, prefix: &Path, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(path).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(prefix).unwrap().display().to_string();
            if let Ok(target) = fs::read_link(&path) {
                found.insert(name, (0, target.display().to_string().into_bytes()));
            } else if path.is_dir() {
                walk(&path, prefix, found);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                found.insert(name, (mode, fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = BTreeMap::new();
    let prefix = root.path("/");
    walk(&prefix, &prefix, &mut found);
    found
}

#[test]
fn a_role_becomes_files_units_and_a_memory_of_it() {
    let bench = bench();
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert!(outcome.complete && outcome.missing.is_empty(), "{outcome:?}");
    let log = [
        "stage c3os.bootstrap.before",
        "stage c3os.bootstrap.before.master",
        "reload",
        "close ports",
        "enable k3s",
        "start k3s",
        "stage c3os.bootstrap.after",
        "stage c3os.bootstrap.after.master",
    ];
    assert_eq!(bench.services.log(), log);
    for file in &server().files {
        let path = bench.root.path(file.path);
        assert_eq!(fs::read(&path).unwrap(), file.content.bytes(), "{}", file.path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, file.mode, "{}", file.path);
    }
    assert_eq!(read_applied(&bench.root).unwrap(), server().applied);
    assert!(bench.root.state("deployed").exists());
    assert_eq!(names(&bench.root).unwrap().name, "node-a");
}

#[test]
fn a_second_time_nothing_is_written_reloaded_or_restarted() {
    let bench = bench();
    apply(&server(), &bench.root, &bench.services).unwrap();
    bench.services.log();
    // A single change of the disk or of a unit would fail now.
    bench.root.faults.fail_after(0);
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert!(outcome.complete && !outcome.changed_anything(), "{outcome:?}");
}

#[test]
fn what_is_missing_on_disk_is_put_back() {
    let bench = bench();
    apply(&server(), &bench.root, &bench.services).unwrap();
    let whole = disk(&bench.root);
    fs::remove_dir_all(bench.root.path("/etc")).unwrap();
    put(&bench.root, "/etc/hostname", "node-a\n");
    // As after a boot: nothing runs, nothing is enabled, no rules are loaded.
    let after_boot = Recorder::new(&bench.root);
    let outcome = apply(&server(), &bench.root, &after_boot).unwrap();
    assert!(outcome.complete);
    assert_eq!(disk(&bench.root), whole);
    assert_eq!(after_boot.log(), ["reload", "close ports", "enable k3s", "start k3s"]);
}

#[test]
fn a_wrong_mode_alone_is_mended() {
    let bench = bench();
    apply(&server(), &bench.root, &bench.services).unwrap();
    let path = "/etc/rancher/k3s/c3os-server-token";
    fs::set_permissions(bench.root.path(path), fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert_eq!(outcome.written, [path]);
    assert_eq!(fs::metadata(bench.root.path(path)).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_changed_setting_restarts_a_running_k3s_once() {
    let bench = bench();
    apply(&server(), &bench.root, &bench.services).unwrap();
    bench.services.log();
    let mut config = Config::default();
    config.k3s.args = vec!["--disable".to_owned(), "traefik".to_owned()];
    let changed = planned(Role::Server, BLUE, &config, &facts());
    apply(&changed, &bench.root, &bench.services).unwrap();
    assert_eq!(bench.services.log(), ["reload", "restart k3s"]);
    apply(&changed, &bench.root, &bench.services).unwrap();
    assert!(bench.services.log().is_empty());
}

#[test]
fn a_change_of_role_stops_the_old_unit_and_leaves_none_of_its_files() {
    let bench = bench();
    apply(&worker(), &bench.root, &bench.services).unwrap();
    bench.services.log();
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert!(outcome.complete);
    let log = bench.services.log();
    let position =
        |what: &str| log.iter().position(|entry| entry == what).unwrap_or_else(|| panic!("{what}: {log:?}"));
    assert!(position("stop k3s-agent") < position("start k3s"));
    assert!(position("disable k3s-agent") < position("enable k3s"));
    assert!(!bench.root.path("/etc/systemd/system/k3s-agent.service.d/50-c3os.conf").exists());
    assert!(!bench.root.path("/etc/rancher/k3s/c3os-join-token").exists());
    assert_eq!(read_applied(&bench.root).unwrap().unwrap().role, Role::Server);
}

#[test]
fn a_users_own_file_in_our_place_is_not_removed() {
    let bench = bench();
    put(&bench.root, "/etc/sysconfig/k3s-agent", "HTTP_PROXY=http://proxy\n");
    apply(&server(), &bench.root, &bench.services).unwrap();
    assert!(bench.root.path("/etc/sysconfig/k3s-agent").exists());
}

#[test]
fn another_cluster_is_refused_by_name_and_nothing_is_touched() {
    let bench = bench();
    apply(&server(), &bench.root, &bench.services).unwrap();
    bench.services.log();
    let before = disk(&bench.root);
    let error =
        apply(&planned(Role::Server, RED, &Config::default(), &facts()), &bench.root, &bench.services);
    let text = error.unwrap_err().to_string();
    assert!(text.contains(BLUE) && text.ends_with(&format!("cluster join {RED}")), "{text}");
    assert_eq!(disk(&bench.root), before);
    assert!(bench.services.log().is_empty());
}

#[test]
fn a_worker_has_its_files_at_once_and_starts_when_the_server_is_known() {
    let bench = bench();
    let early = ClusterFacts {
        server_address: Some(Ipv4Addr::new(10, 1, 3, 4)),
        server_up: false,
        ca_hash: None,
        ..facts()
    };
    let waiting = planned(Role::Worker, BLUE, &Config::default(), &early);
    let outcome = apply(&waiting, &bench.root, &bench.services).unwrap();
    assert!(!outcome.complete);
    assert!(bench.root.path("/etc/rancher/k3s/config.yaml.d/50-c3os.yaml").exists());
    assert!(!bench.services.log().iter().any(|entry| entry.contains("start") || entry.contains("enable")));
    assert_eq!(read_applied(&bench.root).unwrap(), None);

    let outcome = apply(&worker(), &bench.root, &bench.services).unwrap();
    assert!(outcome.complete);
    assert!(bench.services.log().contains(&"start k3s-agent".to_owned()));
}

#[test]
fn a_worker_that_runs_goes_on_while_its_server_is_away() {
    let bench = bench();
    apply(&worker(), &bench.root, &bench.services).unwrap();
    bench.services.log();
    let before = disk(&bench.root);
    let server_address = Some(Ipv4Addr::new(10, 1, 3, 4));
    for away in [
        ClusterFacts { server_address, server_up: false, ..facts() },
        ClusterFacts { server_address, server_up: false, ca_hash: None, agent_token: None, ..facts() },
    ] {
        let waiting = planned(Role::Worker, BLUE, &Config::default(), &away);
        let outcome = apply(&waiting, &bench.root, &bench.services).unwrap();
        assert!(!outcome.complete && bench.services.log().is_empty());
        assert_eq!(bench.services.units()["k3s-agent"].state, UnitState::Active);
        assert_eq!(disk(&bench.root), before);
    }
}

#[test]
fn without_k3s_the_files_are_written_and_one_sentence_says_what_is_missing() {
    let bench = bench();
    fs::remove_file(bench.root.path("/usr/bin/k3s")).unwrap();
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert_eq!(outcome.missing.len(), 1);
    assert!(outcome.missing[0].starts_with("k3s is not installed"), "{:?}", outcome.missing);
    assert!(!outcome.complete && !outcome.written.is_empty());
    assert_eq!(read_applied(&bench.root).unwrap(), None);
    // Installed later.
    put(&bench.root, "/usr/bin/k3s", "#!/bin/sh\n");
    assert!(apply(&server(), &bench.root, &bench.services).unwrap().complete);
}

#[test]
fn a_missing_unit_is_named() {
    let bench = bench();
    bench.services.units.lock().unwrap().clear();
    let outcome = apply(&server(), &bench.root, &bench.services).unwrap();
    assert!(outcome.missing[0].contains("k3s.service"), "{:?}", outcome.missing);
}

#[test]
fn cut_off_after_any_change_and_done_again_the_machine_ends_the_same() {
    for start in [Start::Fresh, Start::RunningWorker, Start::OldSettings] {
        let reference = from(start);
        apply(&server(), &reference.root, &reference.services).unwrap();
        let (end, units) = (disk(&reference.root), reference.services.units());
        let mut cuts = 0;
        for cut in 0.. {
            let bench = from(start);
            bench.services.log();
            bench.root.faults.fail_after(cut);
            let first = apply(&server(), &bench.root, &bench.services);
            bench.root.faults.heal();
            let whole = first.as_ref().is_ok_and(|outcome| outcome.missing.is_empty());
            let applied_early = read_applied(&bench.root).unwrap() == server().applied;
            assert!(!applied_early || bench.services.units()["k3s"].state == UnitState::Active, "cut {cut}");

            let second = apply(&server(), &bench.root, &bench.services).unwrap();
            assert!(second.complete, "cut {cut}: {second:?}");
            assert_eq!(disk(&bench.root), end, "{start:?}, cut {cut}");
            assert_eq!(bench.services.units(), units, "{start:?}, cut {cut}");
            assert!(!bench.services.status("k3s").unwrap().stale, "{start:?}, cut {cut}");
            if let Start::OldSettings = start {
                assert!(
                    bench.services.log().contains(&"restart k3s".to_owned()),
                    "cut {cut}: runs with old settings"
                );
            }
            if whole {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 7, "{start:?}: only {cuts} cuts");
    }
}

#[derive(Debug, Clone, Copy)]
enum Start {
    Fresh,
    RunningWorker,
    OldSettings,
}

fn from(start: Start) -> Bench {
    let bench = bench();
    match start {
        Start::Fresh => {}
        Start::RunningWorker => drop(apply(&worker(), &bench.root, &bench.services).unwrap()),
        Start::OldSettings => {
            let mut config = Config::default();
            config.k3s.embedded_registry = true;
            let old = planned(Role::Server, BLUE, &config, &facts());
            drop(apply(&old, &bench.root, &bench.services).unwrap());
        }
    }
    bench
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_what_to_do() {
    let bench = bench();
    bench.root.faults.fail_after(0);
    for error in [
        apply(&server(), &bench.root, &bench.services).unwrap_err(),
        write_peers(&bench.root, &["/ip4/192.0.2.1/tcp/4001".to_owned()]).unwrap_err(),
        LedgerFile::open(&bench.root).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(error.is_transient() || matches!(error, HostError::Command { .. }), "{text}");
        assert!(text.contains(&bench.root.path("/").display().to_string()) || text.contains('`'), "{text}");
    }
}

#[test]
fn secrets_are_in_no_debug_output_of_a_plan() {
    let text = format!("{:?} {:?}", server(), worker());
    assert!(!text.contains("server-secret") && !text.contains("agent-secret"));
}

#[test]
fn an_observer_keeps_everything_in_run() {
    let bench = bench();
    let root = bench.root.clone().volatile();
    load_identity(&root, &zeroize::Zeroizing::new([1; 32])).unwrap();
    write_lease(&root, &lease()).unwrap();
    let paths: Vec<String> = disk(&bench.root).into_keys().filter(|path| path.contains("state")).collect();
    assert!(paths.iter().all(|path| path.starts_with("run/c3os/state/")) && paths.len() == 3, "{paths:?}");
    assert!(!bench.root.path("/usr/local/.c3os").exists());
}

#[test]
fn a_damaged_fact_is_told_once_and_kept_aside() {
    let bench = bench();
    write_lease(&bench.root, &lease()).unwrap();
    let whole = fs::read(bench.root.state("lease")).unwrap();
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        for bytes in [altered, whole[..at].to_vec()] {
            fs::write(bench.root.state("lease"), &bytes).unwrap();
            let Err(HostError::Damaged { set_aside, .. }) = read_lease(&bench.root) else {
                panic!("byte {at}")
            };
            assert_eq!(fs::read(&set_aside).unwrap(), bytes);
            fs::remove_file(set_aside).unwrap();
            assert_eq!(read_lease(&bench.root).unwrap(), None);
        }
    }
}

#[test]
fn a_server_is_up_when_its_unit_is_and_it_has_a_ca_and_a_kubeconfig() {
    let bench = bench();
    let seen = || observe(&bench.root, &bench.services, Role::Server).unwrap();
    assert!(!seen().server_is_up());
    bench.services.set("k3s", UnitState::Active);
    assert!(!seen().server_is_up());
    put(&bench.root, "/etc/rancher/k3s/k3s.yaml", "kind: Config\n");
    let hash = "0123456789abcdef".repeat(4);
    put(&bench.root, "/var/lib/rancher/k3s/server/node-token", &format!("K10{hash}::server:secret\n"));
    assert!(seen().server_is_up());
    assert_eq!(seen().ca_hash.unwrap().as_str(), hash);
    assert_eq!(kubeconfig(&bench.root).unwrap().unwrap().as_str(), "kind: Config\n");
}
