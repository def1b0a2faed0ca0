//! Makes new inputs of old ones.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sha2::{Digest, Sha256};

/// No mutant is longer, in bytes: what is longer is refused by length at every door.
pub const LONGEST: usize = 64 * 1024;
/// Numbers at which readers trip.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0xffff_ffff, u64::MAX];

/// The same seed makes the same mutants.
pub struct Mutator {
    rng: StdRng,
}

impl Mutator {
    pub fn new(seed: u64, target: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_be_bytes());
        hash.update(target);
        Self { rng: StdRng::from_seed(hash.finalize().into()) }
    }

    /// One of `seeds`, changed in one to eight ways.
    pub fn mutant(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds.choose(&mut self.rng).cloned().unwrap_or_default();
        for _ in 0..self.rng.random_range(1..=8) {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.rng.random_range(0..=bytes.len());
        let end = self.rng.random_range(at..=bytes.len().min(at + 64));
        match self.rng.random_range(0..9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                for _ in 0..self.rng.random_range(1..4) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            3 => {
                let other = seeds.choose(&mut self.rng).cloned().unwrap_or_default();
                let from = self.rng.random_range(0..=other.len());
                let to = self.rng.random_range(from..=other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 => {
                let edge = EDGES.choose(&mut self.rng).copied().unwrap_or_default().to_be_bytes();
                let width = *[1, 2, 4, 8].choose(&mut self.rng).unwrap_or(&1);
                bytes.splice(at..end, edge[8 - width..].iter().copied());
            }
            5 => {
                let noise: Vec<u8> = (0..self.rng.random_range(1..16)).map(|_| self.rng.random()).collect();
                bytes.splice(at..at, noise);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
        }
    }
}
