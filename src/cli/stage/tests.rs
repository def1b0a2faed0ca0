use std::{collections::BTreeMap, path::Path, sync::Mutex};

use super::*;
use crate::host::{UnitState, UnitStatus};

const TOKEN: &str = "c3os:\n  network_token: \"something\"\n";

/// A systemd that writes down what it is told.
struct Systemd {
    state: Mutex<UnitState>,
    log: Mutex<Vec<String>>,
}

impl Systemd {
    fn did(&self, what: &str) -> Result<(), HostError> {
        self.log.lock().unwrap().push(what.to_owned());
        Ok(())
    }
}

impl Services for Systemd {
    fn kind(&self) -> ServiceManager {
        ServiceManager::Systemd
    }

    fn status(&self, _unit: &str) -> Result<UnitStatus, HostError> {
        Ok(UnitStatus { state: *self.state.lock().unwrap(), enabled: true, stale: false })
    }

    fn reload_files(&self) -> Result<(), HostError> {
        self.did("reload")
    }

    fn set_enabled(&self, unit: &str, _enabled: bool) -> Result<(), HostError> {
        self.did(&format!("enable {unit}"))
    }

    fn start(&self, unit: &str) -> Result<(), HostError> {
        *self.state.lock().unwrap() = UnitState::Active;
        self.did(&format!("start {unit}"))
    }

    fn stop(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("stop {unit}"))
    }

    fn restart(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("restart {unit}"))
    }

    fn nudge(&self, unit: &str) -> Result<(), HostError> {
        self.did(&format!("nudge {unit}"))
    }
}

struct Machine {
    _directory: tempfile::TempDir,
    root: Root,
    systemd: Systemd,
    said: Vec<String>,
}

impl Machine {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let systemd = Systemd { state: Mutex::new(UnitState::Stopped), log: Mutex::default() };
        let machine = Self { _directory: directory, root, systemd, said: Vec::new() };
        machine.put("/usr/lib/systemd/system/c3os-agent.service", "");
        machine.put("/etc/machine-id", "");
        for (path, text) in files {
            machine.put(path, text);
        }
        machine
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the service manager was told, after a stage that found nothing in its way.
    fn stage(&mut self, stage: Stage) -> Vec<String> {
        let said = &mut self.said;
        let failures = carry_out(stage, &self.root, &self.systemd, &mut |line| said.push(line.to_owned()));
        assert_eq!(failures, 0, "{:?}", self.said);
        std::mem::take(&mut self.systemd.log.lock().unwrap())
    }

    fn enabled(&self) -> bool {
        host::agent_is_enabled(&self.root, ServiceManager::Systemd)
    }

    fn disk(&self) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
        fn walk(path: &Path, found: &mut BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)>) {
            for entry in fs::read_dir(path).unwrap().flatten() {
                let path = entry.path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    walk(&path, found);
                } else {
                    let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                    found.insert(path, (bytes, metadata.modified().unwrap()));
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.root.path("/"), &mut found);
        found
    }
}

#[test]
fn a_machine_with_a_token_has_the_agent_enabled_before_anything_runs() {
    let mut machine = Machine::with(&[("/oem/config.yaml", TOKEN)]);
    assert!(machine.stage(Stage::Initramfs).is_empty(), "nothing runs yet that could be told");
    assert!(machine.enabled());
    let id = fs::read_to_string(machine.root.path("/etc/machine-id")).unwrap();
    assert_eq!(fs::read_to_string(machine.root.path("/usr/local/etc/machine-id")).unwrap(), id);
    assert!(machine.stage(Stage::Boot).is_empty(), "systemd starts it in its turn");
}

#[test]
fn every_stage_done_twice_changes_no_byte() {
    let mut machine = Machine::with(&[("/oem/config.yaml", TOKEN)]);
    for stage in [Stage::Initramfs, Stage::Boot, Stage::Network] {
        machine.stage(stage);
        let before = machine.disk();
        let said = machine.said.len();
        assert!(machine.stage(stage).is_empty());
        assert_eq!(machine.disk(), before, "{stage:?}");
        assert_eq!(machine.said.len(), said, "the console is told once");
    }
}

#[test]
fn what_initramfs_could_not_do_boot_does() {
    let mut machine = Machine::with(&[("/oem/config.yaml", TOKEN), ("/run/systemd/system/x", "")]);
    assert_eq!(machine.stage(Stage::Boot), ["reload", "start c3os-agent"]);
    assert!(machine.enabled());
}

#[test]
fn a_configuration_that_comes_over_the_network_starts_or_nudges_the_agent() {
    let mut machine = Machine::with(&[]);
    machine.stage(Stage::Initramfs);
    machine.stage(Stage::Boot);
    assert!(!machine.enabled());
    machine.put("/oem/userdata.yaml", TOKEN);
    assert_eq!(machine.stage(Stage::Network), ["start c3os-agent"]);
    assert!(machine.enabled());
    assert!(machine.stage(Stage::Network).is_empty());
    machine.put("/oem/userdata.yaml", "c3os: { network_token: another }\n");
    assert_eq!(machine.stage(Stage::Network), ["nudge c3os-agent"]);
}

#[test]
fn recovery_and_reset_do_nothing_and_live_only_with_a_token() {
    for sentinel in ["/run/cos/recovery_mode", "/run/elemental/recovery_mode", "/run/cos/autoreset_mode"] {
        let mut machine = Machine::with(&[("/oem/config.yaml", TOKEN), (sentinel, "1")]);
        let before = machine.disk();
        for stage in [Stage::Initramfs, Stage::Boot, Stage::Network] {
            assert!(machine.stage(stage).is_empty());
        }
        assert_eq!(machine.disk(), before, "{sentinel}");
    }
    let mut live =
        Machine::with(&[("/oem/config.yaml", "k3s: { enabled: true }\n"), ("/run/cos/live_mode", "1")]);
    live.stage(Stage::Initramfs);
    assert!(!live.enabled());
    live.put("/run/cidata/user-data", TOKEN);
    live.stage(Stage::Initramfs);
    assert!(live.enabled());
    assert!(!live.root.path("/usr/local/etc/machine-id").exists(), "a live system leaves nothing behind");
}

#[test]
fn a_broken_configuration_is_told_on_the_console_and_stops_nothing() {
    for (text, word) in [
        ("c3os: [", "/oem/config.yaml"),
        ("c3os:\n  network_token: x\n  rol: master\n", "rol"),
        ("c3os:\n  network_token_file: /oem/none\n", "/oem/none"),
        ("c3os:\n  network_token: \"something\"\n", "network_token"),
    ] {
        let mut machine = Machine::with(&[("/oem/config.yaml", text)]);
        machine.stage(Stage::Initramfs);
        assert!(machine.enabled(), "the agent shows what is wrong, and sees it mended: {text}");
        let said = machine.said.join("\n");
        assert!(said.contains(word) && said.contains("this machine"), "{text}: {said}");
        assert!(!said.contains("something"), "a token is on the console");
    }
}

#[test]
fn a_machine_without_our_blocks_is_left_alone() {
    let mut machine = Machine::with(&[("/oem/config.yaml", "#cloud-config\nstages: {}\nhostname: x\n")]);
    for stage in [Stage::Initramfs, Stage::Boot, Stage::Network] {
        assert!(machine.stage(stage).is_empty());
    }
    assert!(!machine.enabled() && machine.said.is_empty(), "{:?}", machine.said);
}

#[test]
fn a_token_that_was_taken_away_ends_the_agents_being_enabled() {
    let mut machine = Machine::with(&[("/oem/config.yaml", TOKEN)]);
    machine.stage(Stage::Initramfs);
    machine.put("/oem/config.yaml", "hostname: x\n");
    machine.stage(Stage::Initramfs);
    assert!(!machine.enabled());
}

#[test]
fn what_cannot_be_written_is_told_and_the_rest_is_done() {
    let machine =
        Machine::with(&[("/oem/config.yaml", TOKEN), ("/usr/local/etc", "a file in the directory's place")]);
    let mut said = Vec::new();
    let failures =
        carry_out(Stage::Initramfs, &machine.root, &machine.systemd, &mut |line| said.push(line.to_owned()));
    assert_eq!(failures, 1);
    assert!(machine.enabled());
    assert!(said.iter().any(|line| line.contains("/usr/local/etc")), "{said:?}");
}

#[test]
fn an_installed_system_keeps_k3s_state_and_a_live_one_or_recovery_nothing() {
    let layout = "/run/cos/cos-layout.env";
    for (sentinel, keeps) in [("active_mode", true), ("recovery_mode", false), ("live_mode", false)] {
        let mut machine = Machine::with(&[(layout, "OVERLAY=\"tmpfs:25%\"\n")]);
        machine.put(&format!("/run/elemental/{sentinel}"), "1");
        for _ in 0..2 {
            assert!(machine.stage(Stage::Rootfs).is_empty());
            let text = fs::read_to_string(machine.root.path(layout)).unwrap();
            assert_eq!(text.matches("/var/lib/rancher").count(), usize::from(keeps), "{sentinel}: {text}");
        }
    }
}

/// What both dialects of the runner know and carry out (rancher/yip as in elemental, mudler/yip).
const STEP_KEYS: [&str; 24] = [
    "name",
    "if",
    "node",
    "after",
    "commands",
    "files",
    "directories",
    "downloads",
    "ensure_entities",
    "delete_entities",
    "dns",
    "hostname",
    "sysctl",
    "authorized_keys",
    "users",
    "systemctl",
    "environment",
    "environment_file",
    "timesyncd",
    "systemd_firstboot",
    "datasource",
    "layout",
    "stages",
    "ssh_authorized_keys",
];

#[test]
fn the_overlays_stage_files_keep_to_what_both_runners_know_and_call_stages_that_exist() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("overlay/files/system/oem");
    let mut called = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file: serde_json::Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (stage, steps) in file["stages"].as_object().unwrap() {
            for step in steps.as_array().unwrap() {
                for key in step.as_object().unwrap().keys() {
                    assert!(STEP_KEYS.contains(&key.as_str()), "{}: {stage}: {key}", path.display());
                }
                for list in ["files", "directories"] {
                    for item in step[list].as_array().into_iter().flatten() {
                        assert!(
                            item["permissions"].is_number(),
                            "{}: {item}: without a mode it is 0000",
                            path.display()
                        );
                    }
                }
                for command in step["commands"].as_array().into_iter().flatten() {
                    let command = command.as_str().unwrap();
                    // In the initramfs the system is not the root yet.
                    let command = command.strip_prefix("/sysroot").unwrap_or(command);
                    if let Some(name) = command.strip_prefix("/usr/bin/c3os stage ") {
                        assert_eq!(name, stage.trim_end_matches(".after"));
                        assert!(<Stage as clap::ValueEnum>::from_str(name, false).is_ok(), "{name}");
                        called.push(name.to_owned());
                    }
                }
            }
        }
    }
    called.sort();
    assert_eq!(called, ["boot", "initramfs", "network", "rootfs"]);
}
