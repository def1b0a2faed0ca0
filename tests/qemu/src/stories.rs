//! What an operator does with real machines, and what has to come of it. Each gives its figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::machine::{BOOT, Boot, Firmware, Machine};
use crate::net::Switch;
use crate::power::{founding_cuts, power_cuts};
use crate::run::run;
use crate::seed;

/// What stories play with.
pub struct Ground {
    /// Where disks and drives lie.
    pub dir: PathBuf,
    /// The live medium.
    pub iso: PathBuf,
    /// A disk that is installed already.
    pub disk: PathBuf,
    /// The program of the host, to make tokens with.
    pub binary: PathBuf,
    /// For what is left to chance.
    pub seed: u64,
}

type Story = fn(&Ground, &Switch) -> Result<Value>;

/// All stories, in the order in which `all` plays them.
pub const STORIES: &[(&str, Story)] = &[
    ("live", live),
    ("install", install),
    ("cluster", cluster),
    ("reboots", reboots),
    ("broken-config", broken_config),
    ("power-cuts", power_cuts),
    ("founding-cuts", founding_cuts),
    ("recovery", recovery),
    ("clones", clones),
];

/// The medium boots as a CD under BIOS and as a USB stick under UEFI, and both machines are observers who see each other.
fn live(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("live", 3, "")?;
    let mut machines = [Machine::new(&ground.dir, switch, 1)?, Machine::new(&ground.dir, switch, 2)?];
    let mut seconds = Vec::new();
    for (machine, firmware) in machines.iter_mut().zip([Firmware::Bios, Firmware::Uefi]) {
        machine.switch_on(Boot { firmware, medium: Some(&ground.iso), cidata: Some(&cidata) })?;
    }
    for machine in &mut machines {
        let (mode, up) = machine.wait_up()?;
        ensure!(mode == "live", "{}: booted as {mode}", machine.name);
        seconds.push(up);
        machine.exec("c3os wait address --timeout 300")?;
    }
    for machine in &mut machines {
        let status = settled(machine, "sees the other", |status| live_others(status) == 1)?;
        ensure!(
            status["cluster"]["state"] == "observing",
            "an observer's state is {}",
            status["cluster"]["state"]
        );
        ensure!(status["role"]["assigned"].is_null(), "an observer has a role");
        machine.exec("! grep -E 'level=(warn|error).*c3os' /run/initramfs/stage.log")?;
        machine.exec("! journalctl --unit 'stage-*' | grep -E 'level=(warn|error).*c3os'")?;
        // Names are asked of whom DHCP names, and the stage `network` comes after an address.
        machine.exec("systemctl is-active systemd-resolved systemd-networkd-wait-online")?;
        machine.exec("grep -qx 'nameserver 127.0.0.53' /etc/resolv.conf")?;
        machine
            .exec("test ! -e /usr/local/.c3os && test ! -e /etc/rancher/k3s/config.yaml.d/50-c3os.yaml")?;
    }
    Ok(json!({"bios_up_seconds": seconds[0], "uefi_up_seconds": seconds[1]}))
}

/// From the medium to a disk; then every boot of it is the same machine, under either firmware.
fn install(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("install", 1, "")?;
    let mut machine = Machine::new(&ground.dir, switch, 1)?;
    machine.boot(Boot { firmware: Firmware::Bios, medium: Some(&ground.iso), cidata: Some(&cidata) })?;
    let begin = Instant::now();
    machine.exec("c3os install --device /dev/vda --yes --stay")?;
    let install_seconds = begin.elapsed().as_secs_f64();
    let (code, words) = machine.try_exec("c3os install --device /dev/vda --yes --stay")?;
    ensure!(
        code == 1 && words.contains("--wipe"),
        "a disk that is not empty was not refused: {code} {words}"
    );
    off(&mut machine)?;
    let mut first: Option<Kept> = None;
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        // Without the drive: the configuration is on the disk.
        let (mode, _) = machine.boot(Boot { firmware, medium: None, cidata: None })?;
        ensure!(mode == "active", "the disk booted as {mode}");
        let kept = Kept::of(&mut machine)?;
        ensure!(kept.role == "master", "a machine alone is {}", kept.role);
        let (_, state) = machine.try_exec("systemctl is-system-running --wait")?;
        ensure!(
            state.trim() == "running",
            "{}: {}",
            state.trim(),
            machine.exec("systemctl list-units --failed")?
        );
        match &first {
            None => first = Some(kept),
            Some(first) => ensure!(*first == kept, "{first:?} became {kept:?}"),
        }
        off(&mut machine)?;
    }
    Ok(json!({"install_seconds": install_seconds}))
}

/// Three machines, one configuration, one cluster.
fn cluster(ground: &Ground, switch: &Switch) -> Result<Value> {
    // Arguments of the user's own, which reach each role's unit.
    const ARGUMENTS: [(&str, &str, &str); 2] =
        [("master", "server", "--node-label=rack=one"), ("worker", "agent", "--node-label=rack=two")];
    let [(.., server), (.., agent)] = ARGUMENTS;
    let more = format!("k3s:\n  args: [\"{server}\"]\nk3s-agent:\n  args: [\"{agent}\"]\n");
    let (mut machines, seconds) = ground.three(&ground.cidata("cluster", 3, &more)?, switch)?;
    let mut roles = Vec::new();
    let mut masters = Vec::new();
    let mut joined = Vec::new();
    for machine in &mut machines {
        let status = settled(machine, "knows all", |status| live_others(status) == 2)?;
        let (role, ipv4) = (word(&status["role"]["applied"]), word(&status["node"]["ipv4"]));
        let unit = if role == "master" { "k3s" } else { "k3s-agent" };
        machine.exec("c3os wait k3s --timeout 240")?;
        machine.exec(&format!("systemctl is-active {unit}"))?;
        let mine = ARGUMENTS.iter().find(|(of, ..)| *of == role);
        let (_, command, argument) = mine.with_context(|| format!("a machine is {role}"))?;
        // What the unit was started with, as the sample itself saw it.
        machine.exec(&format!("journalctl -o cat -u {unit} | grep -qx 'sample k3s {command} {argument}'"))?;
        // The other planned arguments are the files that it reads; it had them when it started.
        machine.exec("grep -q ' with ' /var/log/k3s-starts && ! grep -q without /var/log/k3s-starts")?;
        let settings = machine.exec("cat /etc/rancher/k3s/config.yaml.d/50-c3os.yaml")?;
        let has = |line: String| settings.lines().any(|other| other == line);
        ensure!(has("flannel-iface: \"c3os0\"".to_owned()), "k3s' pods are not on the mesh: {settings}");
        ensure!(has(format!("node-ip: \"{ipv4}\"")), "k3s is not told {ipv4}: {settings}");
        match settings.lines().find_map(|line| line.strip_prefix("server: ")) {
            None => masters.push(format!("\"https://{ipv4}:6443\"")),
            Some(server) => joined.push(server.to_owned()),
        }
        let others = status["members"].as_array().into_iter().flatten();
        for other in others.filter(|member| member["id"] != status["node"]["id"]) {
            machine.exec(&format!("c3os ping {} --count 1", word(&other["ipv4"])))?;
            machine.exec(&format!("ping -c 1 -W 10 {}", word(&other["ipv4"])))?;
        }
        only_mesh_ports(&machine.exec("ss -Hltunp | awk '{print $1, $5, $7}'")?)?;
        roles.push(role);
    }
    roles.sort();
    ensure!(roles == ["master", "worker", "worker"], "the roles are {roles:?}");
    ensure!(
        masters.len() == 1 && joined == [masters.as_slice(), &masters].concat(),
        "workers join {joined:?}, the master is {masters:?}"
    );
    Ok(json!({"last_up_to_all_roles_seconds": seconds}))
}

/// `/etc` is in memory: five boots, each the same machine, with k3s' files there before k3s starts, and k3s started once.
fn reboots(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("reboots", 1, "")?;
    let mut machine = ground.installed(switch, 1)?;
    let mut first: Option<Kept> = None;
    let mut first_password = None;
    let mut stage_ms = Vec::new();
    for boot in 1..=5 {
        machine.boot(Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) })?;
        machine.exec("c3os wait role --timeout 240 && test -s /etc/rancher/node/password")?;
        let kept = Kept::of(&mut machine)?;
        match &first {
            None => first = Some(kept),
            Some(first) => ensure!(*first == kept, "boot {boot}: {first:?} became {kept:?}"),
        }
        // At a later boot the role is known before k3s runs in it.
        machine.exec("c3os wait k3s --timeout 240")?;
        let starts = machine.exec("cat /var/log/k3s-starts")?;
        ensure!(!starts.contains("without"), "boot {boot}: k3s started without its files: {starts}");
        // k3s' servers know the node by it.
        let password = machine.exec("cat /etc/rancher/node/password")?;
        ensure!(
            *first_password.get_or_insert_with(|| password.clone()) == password,
            "boot {boot}: another password"
        );
        ensure!(starts.lines().count() == boot, "boot {boot}: k3s started {} times", starts.lines().count());
        // The stages again: nothing changes, and they cost next to nothing.
        let state =
            "find /etc /oem /usr/local/.c3os /usr/local/etc -xdev -type f -newer /run/stages-again | sort";
        machine.exec("touch /run/stages-again")?;
        for stage in ["initramfs", "boot", "network"] {
            stage_ms.push(cpu_ms(
                &machine.exec(&format!("bash -c 'TIMEFORMAT=%U+%S; time c3os stage {stage}'"))?,
            )?);
        }
        let changed = machine.exec(state)?;
        ensure!(changed.lines().all(|line| line.contains("/ledger")), "the second run changed {changed}");
        off(&mut machine)?;
    }
    stage_ms.sort_by(f64::total_cmp);
    Ok(json!({"boots": 5, "stage_cpu_ms_median": stage_ms[stage_ms.len() / 2]}))
}

/// A configuration with mistakes: boot completes, the console says what is wrong, and the machine is on the mesh.
fn broken_config(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("broken-config", 1, "  role: wroker\n  nonsense: 1\n")?;
    let mut machine = ground.installed(switch, 1)?;
    machine.boot(Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) })?;
    let status = settled(&mut machine, "is on the mesh", |status| status["node"]["ipv4"].is_string())?;
    ensure!(status["role"]["assigned"].is_null(), "it took a role that nobody could mean");
    // It is on the mesh before all else has started.
    machine.exec("systemctl is-system-running --wait; systemctl is-active multi-user.target")?;
    let console = fs::read(machine.console()).context("the console")?;
    let console = String::from_utf8_lossy(&console);
    for words in ["c3os.role", "nonsense"] {
        ensure!(console.contains(words), "the console says nothing of {words}");
    }
    Ok(json!({}))
}

/// The entry for recovery runs nothing of ours, and leaves the machine what it was; a reset makes it another one.
fn recovery(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("recovery", 1, "")?;
    let mut machine = ground.installed(switch, 1)?;
    let boot = Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) };
    machine.boot(boot)?;
    let before = Kept::of(&mut machine)?;
    // The boot menu's choice for once, as an operator makes it with the arrow keys.
    machine.exec(
        "mkdir -p /run/grub && mount LABEL=COS_GRUB /run/grub && \
         sed -i 's/^set default=active/set default=recovery/' /run/grub/grub.cfg && umount /run/grub",
    )?;
    off(&mut machine)?;
    let (mode, _) = machine.boot(boot)?;
    ensure!(mode == "recovery", "it booted as {mode}");
    // Answers 0 if one of them is.
    let (code, said) = machine.try_exec("systemctl is-active c3os-agent k3s k3s-agent")?;
    ensure!(code != 0, "something of c3os runs in recovery: {said}");
    let (code, said) = machine.try_exec("grep -sx c3os /proc/[0-9]*/comm")?;
    ensure!(code != 0, "c3os runs in recovery: {said}");
    machine.exec(
        "mkdir -p /run/grub && mount LABEL=COS_GRUB /run/grub && \
         sed -i 's/^set default=recovery/set default=active/' /run/grub/grub.cfg && umount /run/grub",
    )?;
    off(&mut machine)?;
    machine.boot(boot)?;
    let after = Kept::of(&mut machine)?;
    ensure!(before == after, "{before:?} became {after:?}");
    // Leaving: the configuration stays and a server's data is kept aside; another member comes up with them.
    machine.exec("c3os wait k3s --timeout 240")?;
    let hashes = "find /oem -type f -exec sha256sum {} +";
    let configured = machine.exec(hashes)?;
    let (code, words) = machine.try_exec("c3os reset --yes")?;
    ensure!(code != 0 && words.contains("--new-identity"), "the only server left: {code} {words}");
    machine.exec("c3os reset --yes --new-identity")?;
    let status = settled(&mut machine, "is another member", |status| {
        has_role(status) && status["node"]["id"] != before.id.as_str()
    })?;
    ensure!(status["role"]["applied"] == "master", "a machine alone is {}", status["role"]["applied"]);
    machine.exec("c3os wait k3s --timeout 240 && test -d /var/lib/rancher/k3s/server.reset-1")?;
    ensure!(machine.exec(hashes)? == configured, "a reset changed /oem");
    Ok(json!({}))
}

/// Two machines from one disk that was in use are told apart, and no address is there twice.
fn clones(ground: &Ground, switch: &Switch) -> Result<Value> {
    let cidata = ground.cidata("clones", 1, "")?;
    let boot = Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) };
    let mut machine = ground.installed(switch, 1)?;
    machine.boot(boot)?;
    let kept = Kept::of(&mut machine)?;
    off(&mut machine)?;
    let mut clone = Machine::new(&ground.dir, switch, 2)?;
    copy(&machine.disk(), &clone.disk())?;
    machine.switch_on(boot)?;
    clone.boot(boot)?;
    machine.wait_up()?;
    let other = settled(&mut clone, "sees the first", |status| live_others(status) == 1)?;
    settled(&mut machine, "sees the other", |status| live_others(status) == 1)?;
    ensure!(kept == Kept::of(&mut machine)?, "the first is another machine now");
    ensure!(other["node"]["id"] != kept.id.as_str(), "both have one identity");
    ensure!(other["node"]["ipv4"] != kept.ipv4.as_str(), "both have one address");
    ensure!(clone.exec("cat /etc/machine-id")?.trim() != kept.machine, "both have one machine id");
    let problems = other["problems"].as_array().into_iter().flatten();
    let mut whats = problems.filter_map(|problem| problem["what"].as_str());
    ensure!(
        whats.any(|what| what.contains("this disk is a copy of another machine's")),
        "the copy does not say that it is one: {other}"
    );
    // Each sees the other under its own address.
    for (machine, ipv4) in [(&mut machine, word(&other["node"]["ipv4"])), (&mut clone, kept.ipv4)] {
        machine.exec(&format!("ping -c 1 -W 10 {ipv4}"))?;
    }
    Ok(json!({}))
}

/// What a machine is for life.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    id: String,
    ipv4: String,
    role: String,
    machine: String,
}

impl Kept {
    /// Waits for the role, then asks.
    pub fn of(machine: &mut Machine) -> Result<Self> {
        let status = settled(machine, "has its role", has_role)?;
        Ok(Self {
            id: word(&status["node"]["id"]),
            ipv4: word(&status["node"]["ipv4"]),
            role: word(&status["role"]["applied"]),
            machine: machine.exec("cat /etc/machine-id")?.trim().to_owned(),
        })
    }
}

impl Ground {
    /// A drive with one config.yaml for `nodes` machines.
    pub fn cidata(&self, name: &str, nodes: usize, more: &str) -> Result<PathBuf> {
        let binary = self.binary.to_string_lossy();
        let mut config = run(&binary, &["create-config", "--nodes", &nodes.to_string()])?;
        config += "  discovery:\n    dht: false\n";
        config += more;
        let path = self.dir.join(format!("{name}.img"));
        seed::drive(&path, &seed::user_data(&config)?)?;
        Ok(path)
    }

    /// A machine with the installed disk, not booted yet.
    pub fn installed(&self, switch: &Switch, number: u8) -> Result<Machine> {
        let machine = Machine::new(&self.dir, switch, number)?;
        copy(&self.disk, &machine.disk())?;
        Ok(machine)
    }

    /// Three installed machines that have their roles; and the seconds from when the last was up.
    pub fn three(&self, cidata: &Path, switch: &Switch) -> Result<(Vec<Machine>, f64)> {
        let mut machines = Vec::new();
        for number in 1..=3 {
            let mut machine = self.installed(switch, number)?;
            machine.switch_on(Boot { firmware: Firmware::Bios, medium: None, cidata: Some(cidata) })?;
            machines.push(machine);
        }
        for machine in &mut machines {
            machine.wait_up()?;
        }
        let begin = Instant::now();
        for machine in &mut machines {
            settled(machine, "has its role", has_role)?;
        }
        Ok((machines, begin.elapsed().as_secs_f64()))
    }
}

/// Asks a machine for its status until `wanted` holds of it.
pub fn settled(machine: &mut Machine, words: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let end = Instant::now() + BOOT;
    let mut last = Value::Null;
    while Instant::now() < end {
        // The agent may not listen yet; the guest waits for it, not we.
        match machine
            .try_exec("c3os wait address --timeout 60 >&2 && c3os status --output json 2>/dev/null")?
        {
            (0, text) => {
                let text = text.get(text.find('{').unwrap_or(0)..).unwrap_or_default();
                last = serde_json::from_str(text).with_context(|| format!("status: {text}"))?;
                if wanted(&last) {
                    return Ok(last);
                }
            }
            (_, text) => last = Value::String(text),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!("{}: not so after {} s: {words}; {last}", machine.name, BOOT.as_secs())
}

/// Lines of `PROTOCOL ADDRESS:PORT PROGRAM`: nothing but the mesh can be reached from outside.
fn only_mesh_ports(listeners: &str) -> Result<()> {
    // The mesh's own (the data plane has up to four ports), multicast DNS, and where a DHCP server answers.
    let ours = [
        "tcp 4001",
        "udp 4001",
        "udp 51900",
        "udp 51901",
        "udp 51902",
        "udp 51903",
        "udp 5353",
        "udp 68",
        "udp 546",
    ];
    let mut asks = 0;
    for line in listeners.lines() {
        let mut words = line.split(' ');
        let (Some(protocol), Some(place)) = (words.next(), words.next()) else { bail!("a listener: {line}") };
        let (address, port) = place.rsplit_once(':').with_context(|| format!("a listener: {line}"))?;
        let local = address.starts_with("127.") || address == "[::1]";
        if local || ours.contains(&format!("{protocol} {port}").as_str()) {
            continue;
        }
        // Where the agent gets the answers to its questions by multicast DNS: one for the one interface to the LAN, at
        // that interface's own address.
        let agents = words.next().is_some_and(|program| program.starts_with("users:((\"c3os\","));
        let one_address = !["0.0.0.0", "*", "[::]"].contains(&address);
        asks += 1;
        ensure!(protocol == "udp" && agents && one_address && asks == 1, "open to the LAN: {line}");
    }
    Ok(())
}

pub fn has_role(status: &Value) -> bool {
    status["role"]["in_place"] == true
}

fn live_others(status: &Value) -> usize {
    let members = status["members"].as_array().into_iter().flatten();
    members.filter(|member| member["live"] == true && member["id"] != status["node"]["id"]).count()
}

pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn off(machine: &mut Machine) -> Result<()> {
    machine.exec("(sleep 1; systemctl poweroff) >/dev/null 2>&1 &")?;
    machine.wait_off()
}

/// A sparse copy.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    run("cp", &["--sparse=always", &from.to_string_lossy(), &to.to_string_lossy()]).map(drop)
}

/// Milliseconds of `user+system` as bash's `time` prints them.
fn cpu_ms(text: &str) -> Result<f64> {
    let line = text.lines().last().unwrap_or_default();
    let (user, system) = line.split_once('+').with_context(|| format!("no time in {text:?}"))?;
    Ok((user.parse::<f64>()? + system.parse::<f64>()?) * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_bash_prints_them() {
        assert!((cpu_ms("c3os: x\n0.012+0.030\n").unwrap() - 42.0).abs() < 1e-9);
        assert!(cpu_ms("nothing").is_err());
    }

    #[test]
    fn a_port_that_is_not_the_meshs_is_told() {
        let ours = "tcp 127.0.0.1:8080 \ntcp 0.0.0.0:4001 users:((\"c3os\",pid=9,fd=9))\nudp [::]:51900 \ntcp [::1]:99\n";
        let asks = "udp 169.254.7.7:40000 users:((\"c3os\",pid=9,fd=11))\n";
        assert!(only_mesh_ports(&format!("{ours}{asks}")).is_ok());
        for open in [
            "tcp *:22 users:((\"sshd\",pid=1,fd=3))",
            "udp 169.254.7.7:40001 users:((\"c3os\",pid=9,fd=12))",
            "udp 0.0.0.0:40000 users:((\"c3os\",pid=9,fd=12))",
        ] {
            let error = only_mesh_ports(&format!("{asks}{open}")).unwrap_err().to_string();
            assert!(error.contains(open), "{error}");
        }
        let other = "udp 169.254.7.7:40000 users:((\"other\",pid=1,fd=3))";
        assert!(only_mesh_ports(other).is_err());
    }

    #[test]
    fn others_are_counted_without_oneself() {
        let status = json!({"node": {"id": "a"}, "members": [{"id": "a", "live": true}, {"id": "b", "live": true},
            {"id": "c", "live": false}]});
        assert_eq!(live_others(&status), 1);
        assert!(!has_role(&json!({"role": {"assigned": "master", "applied": "master", "in_place": false}})));
    }
}
