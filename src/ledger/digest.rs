//! Fingerprints by which two ledgers find out what differs, at a cost that does not grow while nothing does.

use sha2::{Digest as _, Sha256};

use crate::identity::NodeId;

/// How many buckets the authors fall into, by the first byte of their id.
pub(super) const BUCKETS: usize = 256;

/// The fingerprint of a whole ledger, or of one author's part of it.
pub(super) type Root = [u8; 16];
/// The fingerprint of a bucket of authors.
pub(super) type BucketSum = [u8; 8];

/// The fingerprints of all authors, folded: changing one author costs one hash, whatever the size of the ledger.
///
/// They are XORs of hashes. Who wants two contents with one fingerprint can only build them from its own entries.
#[derive(Clone)]
pub(super) struct Digests {
    root: Root,
    buckets: Box<[BucketSum; BUCKETS]>,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self { root: Root::default(), buckets: Box::new([BucketSum::default(); BUCKETS]) }
    }

    /// Puts an author's row in, or takes the same row out again.
    pub(super) fn toggle(&mut self, author: &NodeId, row: &Root) {
        xor(&mut self.root, row);
        xor(&mut self.buckets[bucket_of(author)], &row[..8]);
    }

    pub(super) fn root(&self) -> Root {
        self.root
    }

    pub(super) fn buckets(&self) -> &[BucketSum; BUCKETS] {
        &self.buckets
    }
}

/// The bucket of an author.
pub(super) fn bucket_of(author: &NodeId) -> usize {
    usize::from(author.as_bytes()[0])
}

/// One author's row: what is held of it, its live entries, and whether it is proven to have written two things
/// under one number.
pub(super) fn row(author: &NodeId, have: u64, sum: &[u8; 32], equivocated: bool) -> Root {
    let mut hash = Sha256::new();
    hash.update(author.as_bytes());
    hash.update(have.to_be_bytes());
    hash.update(sum);
    hash.update([u8::from(equivocated)]);
    *hash.finalize().first_chunk().expect("SHA-256 has 32 bytes")
}

pub(super) fn xor(sum: &mut [u8], other: &[u8]) {
    for (byte, other) in sum.iter_mut().zip(other) {
        *byte ^= other;
    }
}
