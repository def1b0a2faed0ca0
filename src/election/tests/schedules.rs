//! Random schedules over real signed entries: lost, late and reordered deliveries, partitions, crashes, lost disks.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::world::{World, settings};
use crate::election::FoundingSettings;

const SCHEDULES: u64 = 160;

/// One schedule; how many machines forgot their votes.
fn disturb(world: &mut World, rng: &mut StdRng, may_forget: usize) -> usize {
    let count = world.machines.len();
    let mut forgotten = std::collections::BTreeSet::new();
    // Sometimes everybody is about to propose, sometimes nobody has met anybody.
    if rng.random_bool(0.6) {
        world.quiesce();
        world.now += Duration::from_secs(2);
    }
    for _ in 0..rng.random_range(200..900) {
        let n = rng.random_range(0..count);
        match rng.random_range(0..200) {
            0..90 => {
                // Often all that a node has, sometimes one register of it: they may overtake each other.
                let (author, to) = (rng.random_range(0..count), rng.random_range(0..count));
                let part = rng.random_bool(0.4).then(|| rng.random_range(0..3));
                world.deliver(n, author, to, part);
            }
            90..170 if world.machines[n].up => {
                world.decide(n);
                if rng.random_bool(0.8) {
                    world.write(n);
                }
            }
            170..184 => world.now += Duration::from_millis(rng.random_range(0..9000)),
            184..186 => world.side.iter_mut().for_each(|side| *side = rng.random_range(0..2)),
            186..189 => world.side.iter_mut().for_each(|side| *side = 0),
            189..191 => world.crash(n, rng.random_bool(0.5)),
            191..198 if !world.machines[n].up => world.start_again(n),
            198 if forgotten.len() < may_forget && world.machines[n].pinned.is_none() => {
                world.forget(n);
                forgotten.insert(n);
            }
            _ => {}
        }
    }
    forgotten.len()
}

fn heal(world: &mut World) {
    world.side.iter_mut().for_each(|side| *side = 0);
    for n in 0..world.machines.len() {
        if !world.machines[n].up {
            world.start_again(n);
        }
    }
    world.run(Duration::from_secs(3600));
}

#[test]
fn one_cluster_under_any_faults_and_all_belong_to_it_once_they_end() {
    let sizes = [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 0), (4, 3, 1), (5, 3, 0), (5, 3, 2), (7, 4, 1)];
    let (mut competed, mut founded_early) = (0, 0);
    for seed in 0..SCHEDULES {
        let (count, minimum, may_forget) = sizes[seed as usize % sizes.len()];
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world =
            World::new(vec![FoundingSettings { minimum_nodes: Some(minimum), ..settings() }; count]);
        disturb(&mut world, &mut rng, may_forget);
        founded_early += u64::from(!world.founded.is_empty());
        let mut proposers: Vec<_> = world.ballots.keys().map(|(id, _)| id).collect();
        proposers.dedup();
        competed += u64::from(proposers.len() > 1);
        heal(&mut world);
        assert_eq!(
            world.founded.len(),
            1,
            "seed {seed}: {count} machines, m = {minimum}: {:?}",
            world.founded
        );
        assert_eq!(world.pinned().len(), 1, "seed {seed}");
        assert!(world.machines.iter().all(|machine| machine.pinned.is_some()), "seed {seed}");
    }
    assert!(competed * 20 >= SCHEDULES, "ballots competed in {competed} schedules only");
    assert!(founded_early * 20 >= SCHEDULES, "founded amid the faults in {founded_early} schedules only");
    println!("competing ballots in {competed}, founded amid the faults in {founded_early} of {SCHEDULES}");
}
