//! The command line from outside: the program that was built, in a directory of its own, without an agent.
//!
//! Data is on stdout and nothing else is; words are on stderr; 0 is done, 1 failed, 2 wrong usage.

#![allow(clippy::unwrap_used, reason = "in a test, a failed unwrap is a failed assertion")]

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// One program per test: an empty machine, and no settings of whoever runs the tests.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_c3os"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path())
            .env("C3OS_ROOT", self.path())
            .env("C3OS_API", format!("unix://{}/no.sock", self.path().display()))
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs it with `input` on stdin.
    fn feed(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    data: String,
    words: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            data: String::from_utf8(output.stdout).unwrap(),
            words: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Failed, said something of the kind on stderr, and gave no data.
    #[track_caller]
    fn failed_saying(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.data, "", "{self:?}");
        for word in words {
            assert!(self.words.contains(word), "{word}: {self:?}");
        }
    }
}

#[test]
fn a_new_token_is_one_line_that_validate_accepts() {
    let machine = Machine::new();
    let made = machine.run(&["generate-token"]).succeeded();
    assert_eq!((made.data.lines().count(), made.data.ends_with('\n')), (1, true));
    assert_eq!(made.words, "");
    machine.write("config.yaml", &format!("c3os:\n  network_token: {}", made.data));
    let checked = machine.run(&["validate", "config.yaml"]).succeeded();
    assert_eq!(checked.data, "");
    assert!(checked.words.contains("correct"), "{checked:?}");
}

#[test]
fn a_new_configuration_for_three_machines_needs_two_of_them_and_is_valid() {
    let machine = Machine::new();
    let made = machine.run(&["create-config", "--nodes", "3"]).succeeded();
    assert!(made.data.contains("minimum_nodes: 2"), "{}", made.data);
    machine.feed(&["validate", "-"], &made.data).succeeded();
    machine.write("oem/config.yaml", &made.data);
    let checked = machine.run(&["validate", "--output", "json", "--explain"]).succeeded();
    let data: Value = serde_json::from_str(&checked.data).unwrap();
    assert_eq!(data["ok"], Value::Bool(true));
    assert_eq!(data["settings"]["c3os.minimum_nodes"]["value"], Value::from("2"));
    assert_eq!(data["settings"]["c3os.network_token"]["value"], Value::from("***"));
}

#[test]
fn the_configured_token_is_printed_as_it_is_without_a_newline() {
    let machine = Machine::new();
    let token = machine.run(&["generate-token"]).succeeded().data;
    machine.write("oem/config.yaml", &format!("c3os:\n  network_token: \"{}\"\n", token.trim()));
    assert_eq!(machine.run(&["get-network-token"]).succeeded().data, token.trim());
    let directory = machine.path().join("oem");
    let given = machine.run(&["get-network-token", directory.to_str().unwrap()]).succeeded();
    assert_eq!(given.data, token.trim());
}

#[test]
fn without_a_token_the_verb_for_it_says_what_is_missing() {
    let machine = Machine::new();
    machine.run(&["get-network-token"]).failed_saying(&["network_token", "create-config"]);
    machine.write("oem/config.yaml", "install:\n  auto: true\n");
    machine.run(&["get-network-token"]).failed_saying(&["network_token"]);
}

#[test]
fn the_schema_is_the_one_that_editors_are_given() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/cloud-config-schema/c3os.schema.json");
    let printed = Machine::new().run(&["schema"]).succeeded();
    assert_eq!(printed.data, std::fs::read_to_string(committed).unwrap());
}

#[test]
fn every_mistake_is_listed_at_once_with_its_place_and_never_the_token() {
    let machine = Machine::new();
    let token = machine.run(&["generate-token"]).succeeded().data;
    let cut = &token.trim()[..token.len() - 41];
    machine.write(
        "config.yaml",
        &format!(
            "c3os:\n  network_token: {cut}\n  role: wroker\n  minimum_nods: 2\n  vpn:\n    subnet: 10.1\n"
        ),
    );
    let checked = machine.run(&["validate", "config.yaml"]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for place in ["config.yaml:2:", "config.yaml:3:", "config.yaml:4:", "config.yaml:6:"] {
        assert!(checked.data.contains(place), "{place}: {checked:?}");
    }
    assert!(checked.data.contains("did you mean"), "{checked:?}");
    assert!(checked.words.contains("4 errors"), "{checked:?}");
    for output in [&checked.data, &checked.words] {
        assert!(!output.contains(&cut[..24]), "the token is shown");
    }
    let explained = machine.run(&["validate", "--explain", "--output", "json", "config.yaml"]);
    assert_eq!(explained.code, Some(1));
    let data: Value = serde_json::from_str(&explained.data).unwrap();
    assert_eq!(data["mistakes"].as_array().unwrap().len(), 4);
    assert!(!explained.data.contains(&cut[..24]), "the token is shown");
}

#[test]
fn a_file_that_is_not_there_is_no_correct_configuration() {
    Machine::new().run(&["validate", "nowhere.yaml"]).failed_saying(&["nowhere.yaml"]);
}

#[test]
fn without_an_agent_each_verb_fails_and_names_what_to_start() {
    let machine = Machine::new();
    for verb in [
        &["status"][..],
        &["status", "--output", "json"],
        &["get-kubeconfig"],
        &["get-kubeconfig", "--output", "kubeconfig"],
        &["peers"],
        &["ping", "shelf"],
        &["role", "list"],
        &["role", "get"],
        &["role", "set", "shelf", "master"],
    ] {
        machine.run(verb).failed_saying(&["c3os-agent", "c3os bridge"]);
    }
    assert!(!machine.path().join("kubeconfig").exists());
}

#[test]
fn waiting_for_an_agent_that_never_comes_ends_with_what_was_waited_for() {
    let machine = Machine::new();
    machine.run(&["wait", "address", "--timeout", "0"]).failed_saying(&["still waiting for", "agent"]);
}

#[test]
fn an_address_that_is_none_is_said_so() {
    Machine::new().run(&["status", "--api", "localhost"]).failed_saying(&["--api localhost", "unix://"]);
}

#[test]
fn the_doctor_looks_at_a_machine_without_an_agent_too() {
    let machine = Machine::new();
    let ran = machine.run(&["doctor", "--output", "json"]);
    assert_eq!(ran.code, Some(1));
    let findings: Vec<Value> = serde_json::from_str(&ran.data).unwrap();
    let agent = findings.iter().find(|finding| finding["check"] == "agent").unwrap();
    assert_eq!(agent["verdict"], "fail");
    let with_fix = |finding: &Value| (finding["verdict"] == "ok") == finding["fix"].is_null();
    assert!(findings.iter().all(with_fix), "{findings:?}");
}

#[test]
fn wrong_usage_is_another_failure() {
    let machine = Machine::new();
    for arguments in [
        &["unknown"][..],
        &[],
        &["status", "--nonsense"],
        &["role", "set", "shelf", "boss"],
        &["role", "set", "a/b", "master"],
        &["wait", "forever"],
        &["ping", "shelf", "--count", "0"],
    ] {
        let ran = machine.run(arguments);
        assert_eq!((ran.code, ran.data.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(!ran.words.is_empty());
    }
}

#[test]
fn the_uuid_is_machine_id_and_host_name_without_a_newline_and_may_be_overridden() {
    let machine = Machine::new();
    machine.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    machine.write("etc/hostname", "shelf\n");
    assert_eq!(machine.run(&["uuid"]).succeeded().data, "0123456789abcdef0123456789abcdef-shelf");
    let overridden = machine.command(&["u"]).env("UUID", "mine").output().unwrap();
    assert_eq!(Ran::of(overridden).succeeded().data, "mine");
}

#[test]
fn completions_are_made_for_the_usual_shells() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(machine.run(&["completions", shell]).succeeded().data.contains("get-kubeconfig"));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let machine = Machine::new();
    // The completions are longer than a pipe holds, so that writing meets the closed end for sure.
    let mut child = machine
        .command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.words.as_str()), (Some(0), ""));
}
