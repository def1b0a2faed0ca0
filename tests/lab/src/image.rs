//! The image that every host of a lab boots from: what is laid over /usr, and /etc and /system/oem as shipped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::dir::{Init, LabDir};
use crate::product;
use crate::root::{copy_tree, make_dir, make_link};
use crate::tools::{self, Runner};

/// systemd's programs: a machine with OpenRC does not have them.
const SYSTEMD: [&str; 3] = ["bin/systemctl", "bin/systemd-notify", "lib/systemd/systemd"];

/// Files of the machine that its programs in /usr need: which alternatives are chosen, where libraries lie.
const SHARED_ETC: [&str; 4] = ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"];

/// Builds the image of a lab.
pub fn build(lab: &LabDir, init: Init, binary: &Path, runner: &Runner) -> Result<()> {
    let image = lab.image();
    let (usr, etc) = (image.join("usr"), image.join("etc"));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("image");
    for dir in ["usr/bin", "usr/libexec/lab", "usr/local", "etc/runlevels", "etc/rancher/k3s", "system-oem"] {
        make_dir(&image.join(dir), 0o755)?;
    }
    for name in SHARED_ETC {
        let from = Path::new("/etc").join(name);
        if from.is_dir() {
            copy_tree(&from, &etc.join(name))?;
        } else if from.exists() {
            fs::copy(&from, etc.join(name)).with_context(|| format!("copying {}", from.display()))?;
        }
    }
    copy_tree(&own.join("common"), &image)?;
    make_link(Path::new("../usr/lib/os-release"), &etc.join("os-release"))?;
    match init {
        Init::Openrc => openrc(&own, &image)?,
        Init::Systemd => systemd(&own, &image)?,
    }
    overlay(&image)?;
    program(binary, &usr.join("bin/c3os"))?;
    match &runner.program {
        Some((path, name)) => program(path, &usr.join("bin").join(name))?,
        None => program(&product::ours()?, &usr.join("libexec/lab/lab"))?,
    }
    Ok(())
}

fn openrc(own: &Path, image: &Path) -> Result<()> {
    copy_tree(&tools::openrc()?.join("usr"), &image.join("usr"))?;
    copy_tree(&own.join("openrc"), image)?;
    let etc = image.join("etc");
    for level in ["sysinit", "boot", "default", "nonetwork", "shutdown", "off", "recovery"] {
        make_dir(&etc.join("runlevels").join(level), 0o755)?;
    }
    // Else OpenRC complains that it cannot list them.
    for dir in ["insserv.conf.d", "rc.conf.d", "conf.d"] {
        make_dir(&etc.join(dir), 0o755)?;
    }
    fs::write(etc.join("insserv.conf"), "").context("insserv.conf")?;
    for (level, service) in [("boot", "stage-boot"), ("boot", "lan"), ("default", "stage-network")] {
        let at = etc.join("runlevels").join(level).join(service);
        make_link(&Path::new("/etc/init.d").join(service), &at)?;
    }
    for name in SYSTEMD {
        hide(&image.join("usr").join(name))?;
    }
    Ok(())
}

fn systemd(own: &Path, image: &Path) -> Result<()> {
    copy_tree(&own.join("systemd/etc"), &image.join("etc"))?;
    let units = image.join("etc/systemd/system");
    let masked = own.join("masked-units");
    let list = fs::read_to_string(&masked).with_context(|| format!("reading {}", masked.display()))?;
    for unit in list.split_whitespace() {
        make_link(Path::new("/dev/null"), &units.join(unit))?;
    }
    make_link(Path::new("/usr/lib/systemd/system/multi-user.target"), &units.join("default.target"))?;
    make_dir(&units.join("multi-user.target.wants"), 0o755)?;
    for unit in ["stage-boot.service", "stage-network.service"] {
        make_link(&Path::new("..").join(unit), &units.join("multi-user.target.wants").join(unit))?;
    }
    Ok(())
}

/// Lays the product's own files over the image: `overlay/files` is what lands in the OS.
fn overlay(image: &Path) -> Result<()> {
    let files = overlay_files();
    for (from, to) in [("usr", "usr"), ("etc", "etc"), ("system/oem", "system-oem")] {
        if files.join(from).exists() {
            copy_tree(&files.join(from), &image.join(to))?;
        }
    }
    Ok(())
}

/// Where the product's files for the OS lie.
pub fn overlay_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../overlay/files")
}

fn program(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("copying {}", to.display()))
}

/// Makes a file of the machine's /usr invisible: overlayfs' whiteout, which needs no root.
fn hide(path: &Path) -> Result<()> {
    make_dir(path.parent().context("no parent")?, 0o755)?;
    match mknod(path, SFlag::S_IFCHR, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("hiding {}", path.display())),
    }
}
