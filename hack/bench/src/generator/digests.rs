//! Digests that differ, keys that take turns, and whether what comes back is a signature of them.

use bytes::Bytes;

use super::{Plan, PublicKey};
use crate::reference;

/// An endless row of digests of one caller.
#[derive(Clone, Debug)]
pub(super) struct Digests {
    keys: Vec<PublicKey>,
    /// Different for each caller of each run.
    salt: u64,
    count: u64,
}

impl Digests {
    pub(super) fn new(plan: &Plan, caller: usize) -> Self {
        let salt = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ caller as u64;
        Self { keys: plan.keys.clone(), salt, count: caller as u64 }
    }

    /// The next digest and its key.
    pub(super) fn next(&mut self) -> ([u8; 32], &PublicKey) {
        self.count += 1;
        let mut digest = [0x5a; 32];
        digest[..8].copy_from_slice(&self.salt.to_be_bytes());
        digest[8..16].copy_from_slice(&self.count.to_be_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "an index")]
        let at = self.count as usize % self.keys.len();
        (digest, &self.keys[at])
    }
}

/// Whether the compact signature verifies.
pub(super) fn verifies(key: &PublicKey, digest: &[u8], signature: &[u8]) -> bool {
    const_hex::decode(&key.hex).is_ok_and(|point| reference::verifies(&point, digest, signature))
}

pub(super) fn bytes(digest: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(digest)
}
