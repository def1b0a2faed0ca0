//! What a guest is told from outside: the user-data on its cidata drive. The image itself is the real one; everything
//! that only a test needs is in here, and the guest's own stage runner puts it in place.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::run::run;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lab/image");

/// Files that the runner lays down in the guest: from where, to where, mode.
fn files() -> Vec<(PathBuf, &'static str, &'static str)> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let lab = Path::new(LAB);
    vec![
        (ours.join("port"), "/etc/c3os-test/port", "0755"),
        (ours.join("port.service"), "/etc/systemd/system/c3os-test.service", "0644"),
        // The lab's sample in k3s' place.
        (lab.join("common/usr/bin/k3s"), "/usr/local/bin/k3s", "0755"),
        (lab.join("systemd/etc/systemd/system/k3s.service"), "/etc/systemd/system/k3s.service", "0644"),
        (
            lab.join("systemd/etc/systemd/system/k3s-agent.service"),
            "/etc/systemd/system/k3s-agent.service",
            "0644",
        ),
    ]
}

/// One config.yaml, and behind it the stages that make the guest testable.
pub fn user_data(config: &str) -> Result<String> {
    let mut text =
        format!("#cloud-config\n{config}stages:\n  initramfs:\n    - name: \"test\"\n      files:\n");
    for (from, to, mode) in files() {
        let bytes = fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
        // The lab's units run k3s from where the lab has it.
        let bytes = bytes.replace("ExecStart=/usr/bin/k3s", "ExecStart=/usr/local/bin/k3s");
        write!(
            text,
            "        - path: {to}\n          permissions: {mode}\n          encoding: b64\n          content: {}\n",
            STANDARD.encode(bytes)
        )?;
    }
    text += "      commands:\n        - systemctl enable c3os-test.service\n";
    Ok(text)
}

/// A drive with the label CIDATA and `text` as its user-data.
pub fn drive(path: &Path, text: &str) -> Result<()> {
    let source = path.with_extension("user-data");
    fs::write(&source, text).with_context(|| format!("writing {}", source.display()))?;
    let _ = fs::remove_file(path);
    let (drive, source) = (path.to_string_lossy(), source.to_string_lossy());
    run("truncate", &["-s", "4M", &drive])?;
    run("mkfs.vfat", &["-n", "CIDATA", &drive])?;
    run("mcopy", &["-i", &drive, &source, "::user-data"])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_comes_first_and_every_file_is_there() {
        let text = user_data("c3os:\n  role: none\n").unwrap();
        assert!(text.starts_with("#cloud-config\nc3os:\n  role: none\nstages:\n"));
        assert_eq!(text.matches("permissions: 0").count(), files().len());
    }
}
