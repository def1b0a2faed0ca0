//! A host's file system: /usr shared and read-only, what a machine keeps on its disk from the lab's directory, the rest
//! fresh at every boot.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use crate::dir::{HostSpec, Init, Kind, LabDir, Spec};

/// What survives a power cut: name in `keep/`, place in the host.
const KEPT: &[(&str, &str)] = &[
    ("etc", "etc"),
    ("oem", "oem"),
    ("system-oem", "system/oem"),
    ("local", "usr/local"),
    ("var", "var"),
    ("root", "root"),
];

/// Where a path of a host lies below `keep/`, if it outlives a boot.
pub fn kept(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.strip_prefix('/')?);
    KEPT.iter().find_map(|(kept, place)| Some(Path::new(kept).join(path.strip_prefix(place).ok()?)))
}

/// Makes a host's disk as an installer would leave it: the image's files, and the one config.yaml.
pub fn install(lab: &LabDir, host: &HostSpec) -> Result<()> {
    let keep = lab.host(&host.name).join("keep");
    for dir in ["oem", "local/bin", "local/etc", "local/cloud-config", "root"] {
        make_dir(&keep.join(dir), 0o755)?;
    }
    for dir in ["cache", "lib/misc", "lib/systemd", "log", "spool", "tmp"] {
        make_dir(&keep.join("var").join(dir), 0o755)?;
    }
    make_link(Path::new("/run"), &keep.join("var/run"))?;
    make_link(Path::new("/run/lock"), &keep.join("var/lock"))?;
    make_dir(&lab.host(&host.name).join("root"), 0o755)?;
    renew(lab, host)?;
    if host.kind != Kind::Laptop {
        let config = keep.join("oem/config.yaml");
        fs::copy(lab.config(), &config).with_context(|| format!("copying {}", lab.config().display()))?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).context("config.yaml")?;
    }
    Ok(())
}

/// Puts /etc and /system/oem back as the image ships them, as on a machine whose /etc does not outlive a boot.
pub fn renew(lab: &LabDir, host: &HostSpec) -> Result<()> {
    let keep = lab.host(&host.name).join("keep");
    for dir in ["etc", "system-oem"] {
        let to = keep.join(dir);
        if to.exists() {
            fs::remove_dir_all(&to).with_context(|| format!("emptying {}", to.display()))?;
        }
        copy_tree(&lab.image().join(dir), &to)?;
    }
    fs::write(keep.join("etc/hostname"), format!("{}\n", host.name)).context("/etc/hostname")?;
    let hosts = format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {}\n", host.name);
    fs::write(keep.join("etc/hosts"), hosts).context("/etc/hosts")
}

/// Builds the root in the caller's (own, private) mount namespace and makes it `/`.
pub fn enter(lab: &LabDir, spec: &Spec, host: &HostSpec, layers: &[PathBuf]) -> Result<()> {
    let base = lab.host(&host.name);
    let root = base.join("root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("making mounts private")?;
    tmpfs(&root, "mode=755,size=1m", MsFlags::empty())?;
    for dir in [
        "dev",
        "etc",
        "home",
        "mnt",
        "oem",
        "opt",
        "proc",
        "root",
        "run",
        "srv",
        "sys",
        // Where an initramfs has the system, for stages that run there.
        "sysroot",
        "system/oem",
        "tmp",
        "usr",
        "var",
        ".old",
    ] {
        make_dir(&root.join(dir), 0o755)?;
    }
    for dir in ["bin", "sbin", "lib", "lib32", "lib64"] {
        if Path::new("/usr").join(dir).exists() {
            make_link(&Path::new("usr").join(dir), &root.join(dir))?;
        }
    }
    usr(&root.join("usr"), layers)?;
    for (from, to) in KEPT {
        bind(&base.join("keep").join(from), &root.join(to))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    tmpfs(&root.join("run"), "mode=755,size=64m", quiet)?;
    tmpfs(&root.join("tmp"), "mode=1777,size=64m", quiet)?;
    kernel(&root, spec)?;
    devices(&root)?;
    if spec.init == Init::Systemd {
        make_dir(&root.join("run/host"), 0o755)?;
        fs::write(root.join("run/host/container-manager"), "lab").context("/run/host")?;
    }
    // A machine that runs its installed image: elemental's sentinel.
    make_dir(&root.join("run/elemental"), 0o755)?;
    fs::write(root.join("run/elemental/active_mode"), "").context("/run/elemental")?;

    std::env::set_current_dir(&root).context("entering the root")?;
    pivot_root(".", ".old").context("changing the root")?;
    std::env::set_current_dir("/").context("entering the root")?;
    umount2("/.old", MntFlags::MNT_DETACH).context("leaving the old root")?;
    fs::remove_dir("/.old").context("leaving the old root")?;
    remount("/", MsFlags::MS_BIND | MsFlags::MS_RDONLY)
}

/// /usr: the lab's layers over the machine's own, none of them writable.
fn usr(to: &Path, layers: &[PathBuf]) -> Result<()> {
    let mut lower = OsString::from("lowerdir=");
    for layer in layers {
        for &byte in layer.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                lower.push("\\");
            }
            lower.push(std::ffi::OsStr::from_bytes(&[byte]));
        }
        lower.push(":");
    }
    lower.push("/usr");
    mount(Some("overlay"), to, Some("overlay"), MsFlags::MS_RDONLY, Some(lower.as_os_str()))
        .with_context(|| format!("laying {} over /usr", lower.display()))
}

/// /proc and /sys, so that a host changes nothing of the kernel but its own network.
fn kernel(root: &Path, spec: &Spec) -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), quiet, None::<&str>).context("mounting /proc")?;
    // Else a service that applies sysctl.d would write the machine's own settings.
    let sys = proc.join("sys");
    bind(&sys, &sys)?;
    remount(&sys, MsFlags::MS_BIND | MsFlags::MS_RDONLY | quiet)?;
    bind(&sys.join("net"), &sys.join("net"))?;
    remount(sys.join("net"), MsFlags::MS_BIND | quiet)?;
    let sys = root.join("sys");
    mount(Some("sysfs"), &sys, Some("sysfs"), quiet | MsFlags::MS_RDONLY, None::<&str>)
        .context("mounting /sys")?;
    // Without a cgroup mount of its own systemd would mount the machine's.
    if spec.cgroup.is_some() {
        mount(Some("cgroup2"), &sys.join("fs/cgroup"), Some("cgroup2"), quiet, None::<&str>)
            .context("mounting cgroup2")?;
    }
    Ok(())
}

fn devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    tmpfs(&dev, "mode=755,size=1m", MsFlags::MS_NOSUID)?;
    for dir in ["mqueue", "net", "pts", "shm"] {
        make_dir(&dev.join(dir), 0o755)?;
    }
    for name in ["null", "zero", "full", "random", "urandom", "tty", "net/tun"] {
        let from = Path::new("/dev").join(name);
        if from.exists() {
            fs::write(dev.join(name), "").with_context(|| format!("/dev/{name}"))?;
            bind(&from, &dev.join(name))?;
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )
    .context("mounting /dev/pts")?;
    tmpfs(&dev.join("shm"), "mode=1777,size=16m", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        make_link(Path::new(to), &dev.join(name))?;
    }
    Ok(())
}

fn tmpfs(to: &Path, options: &str, flags: MsFlags) -> Result<()> {
    mount(Some("tmpfs"), to, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("mounting {}", to.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), to.display()))
}

fn remount(path: impl AsRef<Path>, flags: MsFlags) -> Result<()> {
    let path = path.as_ref();
    mount(None::<&str>, path, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)
        .with_context(|| format!("remounting {}", path.display()))
}

/// Makes a directory and its parents, with this mode whatever the umask is.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("making {}", path.display()))
}

/// Makes a symbolic link at `at`, in place of what is there.
pub fn make_link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at).with_context(|| format!("replacing {}", at.display()))?;
    }
    symlink(to, at).with_context(|| format!("linking {}", at.display()))
}

/// Copies files, modes and links; what is at the destination already is overwritten.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let meta = fs::metadata(from).with_context(|| format!("reading {}", from.display()))?;
    make_dir(to, meta.permissions().mode() & 0o7777)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry.with_context(|| format!("reading {}", from.display()))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().with_context(|| format!("reading {}", source.display()))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            make_link(
                &fs::read_link(&source).with_context(|| format!("reading {}", source.display()))?,
                &target,
            )?;
        } else if kind.is_file() {
            if target.symlink_metadata().is_ok() {
                fs::remove_file(&target).with_context(|| format!("replacing {}", target.display()))?;
            }
            fs::copy(&source, &target)
                .with_context(|| format!("copying {} to {}", source.display(), target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_outlive_a_boot_are_found_and_others_are_not() {
        assert_eq!(kept("/oem/config.yaml"), Some(PathBuf::from("oem/config.yaml")));
        assert_eq!(kept("/usr/local/.c3os/identity"), Some(PathBuf::from("local/.c3os/identity")));
        assert_eq!(kept("/run/x"), None);
        assert_eq!(kept("oem"), None);
    }
}
