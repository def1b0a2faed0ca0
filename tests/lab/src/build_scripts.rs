//! What the scripts of `image/` stand on: a step that fails ends everything, and leaves nothing half done behind.

use std::{fs, process::Command};

use crate::product;

/// Runs `script` with image/ground.sh around it, a cache of its own and a `broken` step; gives exit code and standard
/// output.
fn with_ground(cache: &std::path::Path, script: &str) -> (Option<i32>, String) {
    let ground = product::tree().join("image/ground.sh");
    let around = format!(
        "set -euo pipefail\n. {}\nbroken() {{ touch \"$1/half\"; false; touch \"$1/whole\"; }}\n{script}\necho went on",
        ground.display()
    );
    let output =
        Command::new("bash").args(["-c", &around]).env("XDG_CACHE_HOME", cache).output().expect("bash");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_step_ends_at_its_first_failure_and_so_does_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display();
    let (code, said) = with_ground(dir.path(), &format!("step 'a step' broken {here}"));
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(dir.path().join("half").exists() && !dir.path().join("whole").exists());
    let (code, said) = with_ground(dir.path(), "step 'a step' true");
    assert_eq!((code, said.as_str()), (Some(0), "went on\n"));
}

#[test]
fn what_is_kept_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let kept = || {
        let entries = fs::read_dir(dir.path().join("c3os-lab")).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for script in [
        "kept thing broken >/dev/null",
        "place=$(kept thing broken)",
        "caller() { place=$(kept thing broken); }; caller",
    ] {
        assert_eq!(with_ground(dir.path(), script), (Some(1), String::new()), "{script}");
        assert!(kept().is_empty(), "{script}: {:?}", kept());
    }
    let (code, said) = with_ground(dir.path(), "whole() { touch \"$1/file\"; }\nls \"$(kept thing whole)\"");
    assert_eq!((code, said.as_str()), (Some(0), "file\nwent on\n"));
    assert_eq!(kept(), ["thing"]);
}
