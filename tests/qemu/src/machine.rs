//! One emulated machine: its disk, its drives, its power switch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net::Switch;
use crate::port::Port;
use crate::run::run;

/// An emulated machine takes a CPU minute to boot, and shares its CPU.
pub const BOOT: Duration = Duration::from_secs(15 * 60);
/// One command in it.
pub const COMMAND: Duration = Duration::from_secs(5 * 60);
const DISK: &str = "4G";

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// What is put into the machine before it is switched on.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    pub firmware: Firmware,
    /// A medium, which then boots first: a CD under BIOS, a USB stick under UEFI.
    pub medium: Option<&'a Path>,
    /// A drive with configuration.
    pub cidata: Option<&'a Path>,
}

/// A machine; off when dropped.
pub struct Machine {
    pub name: String,
    number: u8,
    dir: PathBuf,
    namespace: String,
    on: Option<(Child, Port)>,
}

impl Machine {
    /// A new one with an empty disk, at the switch. `number`: 1 to 99.
    pub fn new(dir: &Path, switch: &Switch, number: u8) -> Result<Self> {
        let name = format!("m{number}");
        let dir = dir.join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        switch.cable(&name)?;
        let machine = Self { name, number, dir, namespace: switch.namespace().to_owned(), on: None };
        let disk = machine.disk();
        let _ = fs::remove_file(&disk);
        run("truncate", &["-s", DISK, &disk.to_string_lossy()])?;
        Ok(machine)
    }

    /// The file that stands for its disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// What it says on its serial line.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// Switches it on, and waits until it is up: the mode, and the seconds that took by its own clock.
    pub fn boot(&mut self, boot: Boot<'_>) -> Result<(String, f64)> {
        self.switch_on(boot)?;
        self.wait_up()
    }

    /// Switches it on.
    pub fn switch_on(&mut self, boot: Boot<'_>) -> Result<()> {
        ensure!(self.on.is_none(), "{} is on", self.name);
        let socket = self.dir.join("port");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(self.words(boot, &socket)?);
        let log = File::create(self.dir.join("qemu.log")).context("a log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone().context("a log")?).stderr(log);
        let mut child = command.spawn().context("starting qemu")?;
        let end = Instant::now() + Duration::from_secs(60);
        let port = loop {
            if let Ok(port) = Port::connect(&socket) {
                break port;
            }
            if child.try_wait().context("qemu")?.is_some() || Instant::now() > end {
                let _ = child.kill();
                let said = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
                anyhow::bail!("{}: qemu did not start: {}", self.name, said.trim());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        self.on = Some((child, port));
        Ok(())
    }

    /// Waits until it is up.
    pub fn wait_up(&mut self) -> Result<(String, f64)> {
        let name = self.name.clone();
        self.port()?.up(BOOT).with_context(|| format!("{name} does not come up"))
    }

    /// Whether it said by now that it is up.
    pub fn is_up(&mut self) -> Result<bool> {
        Ok(self.port()?.is_up())
    }

    /// Runs a command; an error unless it ends with 0.
    pub fn exec(&mut self, command: &str) -> Result<String> {
        let (code, output) = self.try_exec(command)?;
        ensure!(code == 0, "{}: `{command}` ends with {code}: {}", self.name, output.trim());
        Ok(output)
    }

    /// Runs a command: its exit code, and what it printed.
    pub fn try_exec(&mut self, command: &str) -> Result<(i32, String)> {
        let name = self.name.clone();
        self.port()?.exec(command, COMMAND).with_context(|| name)
    }

    /// Cuts the power.
    pub fn kill(&mut self) -> Result<()> {
        if let Some((mut child, _)) = self.on.take() {
            child.kill().context("ending qemu")?;
            child.wait().context("waiting for qemu")?;
        }
        Ok(())
    }

    /// Shuts down, and waits until it is off. `how`: `poweroff` or a verb that does so.
    pub fn wait_off(&mut self) -> Result<()> {
        let (mut child, _port) = self.on.take().with_context(|| format!("{} is off", self.name))?;
        let end = Instant::now() + BOOT;
        while child.try_wait().context("qemu")?.is_none() {
            if Instant::now() > end {
                let _ = child.kill();
                anyhow::bail!("{} does not switch itself off", self.name);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn port(&mut self) -> Result<&mut Port> {
        let (_, port) = self.on.as_mut().with_context(|| format!("{} is off", self.name))?;
        Ok(port)
    }

    fn words(&self, boot: Boot<'_>, socket: &Path) -> Result<Vec<String>> {
        let Self { name, number, .. } = self;
        let drive =
            |file: &Path, options: &str| format!("if=virtio,format=raw,file={}{options}", file.display());
        // A /dev/kvm that is there need not work (nested ones often do not), so it is asked for.
        let kvm = std::env::var_os("C3OS_QEMU_KVM").is_some();
        let mut words: Vec<String> = [
            "qemu-system-x86_64",
            "-machine",
            "pc",
            "-cpu",
            "max",
            "-m",
            "768",
            "-smp",
            "1",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtio-rng-pci",
            "-accel",
            if kvm { "kvm" } else { "tcg,thread=multi,tb-size=256" },
        ]
        .map(str::to_owned)
        .to_vec();
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        add("-name", name.clone());
        // A machine's own for life, as a board's.
        add("-uuid", format!("c3050000-0000-4000-8000-0000000000{number:02}"));
        add("-serial", format!("file:{}", self.console().display()));
        add("-netdev", format!("tap,id=lan,ifname={name},script=no,downscript=no"));
        add("-device", format!("virtio-net-pci,netdev=lan,mac=52:54:00:77:00:{number:02},romfile="));
        add("-chardev", format!("socket,id=port,path={},server=on,wait=off", socket.display()));
        add("-device", "virtserialport,chardev=port,name=c3os.test".to_owned());
        add("-drive", drive(&self.disk(), ",cache=writethrough"));
        if let Some(cidata) = boot.cidata {
            add("-drive", drive(cidata, ",readonly=on"));
        }
        match boot.medium.map(|medium| (boot.firmware, medium.display())) {
            None => {}
            Some((Firmware::Bios, medium)) => {
                add("-cdrom", medium.to_string());
                add("-boot", "d".to_owned());
            }
            Some((Firmware::Uefi, medium)) => {
                add("-device", "qemu-xhci".to_owned());
                add("-drive", format!("if=none,id=stick,format=raw,snapshot=on,file={medium}"));
                add("-device", "usb-storage,drive=stick,bootindex=0".to_owned());
            }
        }
        if boot.firmware == Firmware::Uefi {
            let variables = self.dir.join("variables.fd");
            if !variables.exists() {
                fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).context("OVMF (package ovmf)")?;
            }
            let flash = "if=pflash,format=raw";
            add("-drive", format!("{flash},unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"));
            add("-drive", format!("{flash},unit=1,file={}", variables.display()));
        }
        Ok(words)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
