//! Stories of power that fails.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::machine::{Boot, Firmware, Machine};
use crate::net::Switch;
use crate::stories::{Ground, Kept, copy, has_role, settled, word};

/// Power fails at random moments of the first boot and of founding; it always comes back to one cluster.
pub fn power_cuts(ground: &Ground, switch: &Switch) -> Result<Value> {
    const CUTS: u64 = 20;
    // So many cuts hit one disk before it is looked at, and the next one is new: its first boot and its founding are
    // what the cuts are for.
    const PER_DISK: u64 = 4;
    // Cuts reach to half as long again as it takes until there is a role: some hit a founded machine.
    const REACH: f64 = 1.5;
    let cidata = ground.cidata("power-cuts", 1, "")?;
    let mut machine = ground.installed(switch, 1)?;
    let boot = Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) };
    let begin = Instant::now();
    machine.boot(boot)?;
    Kept::of(&mut machine)?;
    let whole = begin.elapsed();
    machine.kill()?;
    drop(machine);
    let mut machine = Machine::new(&ground.dir, switch, 2)?;
    let mut cluster: Option<String> = None;
    let mut founded = 0;
    let mut random = StdRng::seed_from_u64(ground.seed);
    for cut in 1..=CUTS {
        if cut % PER_DISK == 1 {
            copy(&ground.disk, &machine.disk())?;
            cluster = None;
        }
        let moment = whole.mul_f64(REACH * random.random::<f64>());
        machine.switch_on(boot)?;
        std::thread::sleep(moment);
        founded += usize::from(cut_power(&mut machine, &mut cluster)?);
        eprintln!("   cut {cut}, {:.0} s after power came", moment.as_secs_f64());
        if cut % PER_DISK != 0 {
            continue;
        }
        machine.boot(boot)?;
        survived(&mut machine, &mut cluster)?;
        machine.kill()?;
    }
    Ok(json!({"cuts": CUTS, "cuts_after_founding": founded, "first_boot_seconds": whole.as_secs_f64()}))
}

/// Power fails on each of three machines while they boot for the first time and found; it always comes back to one cluster.
pub fn founding_cuts(ground: &Ground, switch: &Switch) -> Result<Value> {
    const ROUNDS: usize = 3;
    let cidata = ground.cidata("founding-cuts", 3, "")?;
    // How long until all have a role is how far the cuts reach.
    let begin = Instant::now();
    let (mut machines, _) = ground.three(&cidata, switch)?;
    let whole = begin.elapsed();
    let boot = Boot { firmware: Firmware::Bios, medium: None, cidata: Some(&cidata) };
    let mut founded = 0;
    let mut random = StdRng::seed_from_u64(ground.seed);
    for round in 1..=ROUNDS {
        for machine in &mut machines {
            machine.kill()?;
            copy(&ground.disk, &machine.disk())?;
        }
        let mut cluster: Option<String> = None;
        // In its first half a boot has not come to the mesh, and a cut there is one of `power_cuts`.
        let mut cuts: Vec<(Duration, usize)> =
            (0..machines.len()).map(|at| (whole.mul_f64(0.5 + random.random::<f64>() / 2.0), at)).collect();
        cuts.sort();
        let begin = Instant::now();
        for machine in &mut machines {
            machine.switch_on(boot)?;
        }
        for (moment, at) in cuts {
            std::thread::sleep(moment.saturating_sub(begin.elapsed()));
            let machine = &mut machines[at];
            let knew = cut_power(machine, &mut cluster)?;
            founded += usize::from(knew);
            let (name, seconds) = (&machine.name, begin.elapsed().as_secs());
            eprintln!(
                "   round {round}: {name} cut after {seconds} s{}",
                if knew { ", in a cluster" } else { "" }
            );
            machine.switch_on(boot)?;
        }
        let mut roles = Vec::new();
        for machine in &mut machines {
            roles.push(survived(machine, &mut cluster)?);
        }
        roles.sort();
        ensure!(roles == ["master", "worker", "worker"], "round {round}: the roles are {roles:?}");
    }
    let cuts = ROUNDS * machines.len();
    Ok(json!({"cuts": cuts, "cuts_after_founding": founded, "first_boot_seconds": whole.as_secs_f64()}))
}

/// Cuts a machine's power; whether it was in a cluster, which must never be another than the one `known`.
fn cut_power(machine: &mut Machine, known: &mut Option<String>) -> Result<bool> {
    let mut founded = false;
    if machine.is_up()? {
        let (_, text) = machine.try_exec("timeout 10 c3os status --output json 2>/dev/null")?;
        founded = one_cluster(known, &serde_json::from_str(&text).unwrap_or_default())?;
    }
    machine.kill()?;
    Ok(founded)
}

/// After cuts: the machine gets its role, in the one cluster there is, and nothing is half written. Gives the role.
fn survived(machine: &mut Machine, known: &mut Option<String>) -> Result<String> {
    let status = settled(machine, "has its role", has_role)?;
    ensure!(one_cluster(known, &status)?, "{} has a role and no cluster: {status}", machine.name);
    machine.exec("c3os wait k3s --timeout 240")?;
    let left =
        machine.exec("find /usr/local/.c3os /etc/rancher /oem -name '.*.new' -o -name '*.damaged-*'")?;
    ensure!(left.is_empty(), "{}: half written: {left}", machine.name);
    Ok(word(&status["role"]["applied"]))
}

/// Whether a status names a cluster; an error if it is another one than was known.
fn one_cluster(known: &mut Option<String>, status: &Value) -> Result<bool> {
    let Some(id) = status["cluster"]["id"].as_str() else { return Ok(false) };
    let known = known.get_or_insert_with(|| id.to_owned());
    ensure!(known == id, "a second cluster: {known} was known, this machine is in {id}");
    Ok(true)
}
