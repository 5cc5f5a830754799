//! Signing with two contexts: each signature is made twice, with different blinding and different
//! SHA-256 code, and leaves only if both are equal byte for byte. One random item of a batch, or
//! each, is also verified. A single fault (a flipped bit, a bad core) then cannot leak a key.

use zeroize::Zeroizing;

use crate::rng;
use crate::secret::Secret32;

mod ffi;

use ffi::{Context, Sha256};

/// Signatures after which the blinding of both contexts is drawn again: often enough against
/// averaging over traces, at 5 % of the time of a signature.
pub const RANDOMIZE_AFTER_SIGNATURES: u32 = 32;
/// Age at which the blinding is drawn again before the next batch.
pub const RANDOMIZE_AFTER_MS: u64 = 1_000;
/// What activation signs: SHA-256 of `sigil/self-test/v1`.
pub const SELF_TEST_DIGEST: [u8; 32] = [
    0x64, 0x3b, 0xee, 0xc8, 0x5e, 0x87, 0xe8, 0x8e, 0x93, 0x64, 0xe9, 0x3a, 0x5c, 0x80, 0x2a, 0xc6,
    0x99, 0x2e, 0xd0, 0xa6, 0xf6, 0xfa, 0xfc, 0xd8, 0xe5, 0x31, 0xa9, 0x79, 0xe6, 0x79, 0x3a, 0xe9,
];

/// An ECDSA signature with low S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// r | s.
    pub compact: [u8; 64],
    /// 0..=3.
    pub recovery_id: u8,
}

/// How a signature is checked before it leaves, beside the recomputation. Pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// One random item of each batch is verified in full.
    OneOfBatch,
    /// Each item is verified in full.
    Full,
}

/// One signature to make.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// What is signed, as it is.
    pub digest: [u8; 32],
    /// The key, bound to the public key.
    pub scalar: &'a Secret32,
    /// Its compressed public key.
    pub public_key: &'a [u8; 33],
}

/// A computation gave a wrong result or the random generator failed. Nothing left the enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature computation was faulty")]
pub struct Fault;

/// The contexts of one worker.
pub struct Signer {
    first: Context,
    second: Context,
    mode: VerifyMode,
    signed_since_randomized: u32,
    randomized_ms: u64,
}

impl Signer {
    /// Makes and randomizes both contexts, and compares the accelerated SHA-256 with the portable.
    ///
    /// # Errors
    /// The kernel gives no random bytes, or the contexts disagree.
    pub fn new(mode: VerifyMode, now_ms: u64) -> Result<Self, Fault> {
        let mut signer = Self {
            first: Context::new(Sha256::Accelerated),
            second: Context::new(Sha256::Portable),
            mode,
            signed_since_randomized: 0,
            randomized_ms: now_ms,
        };
        let mut scalar = Secret32::copy_from(&[0x5a; 32]).map_err(|_| Fault)?;
        // Before and after blinding, which itself hashes.
        for _ in 0..2 {
            let public_key = signer.public_key(&scalar)?;
            scalar.bind_to(&public_key);
            signer.sign_one(&Item {
                digest: SELF_TEST_DIGEST,
                scalar: &scalar,
                public_key: &public_key,
            })?;
            signer.randomize(now_ms)?;
        }
        Ok(signer)
    }

    /// The compressed public key, computed twice.
    ///
    /// # Errors
    /// The bytes are no scalar in 1..n, or the computations differ.
    pub fn public_key(&self, scalar: &Secret32) -> Result<[u8; 33], Fault> {
        let first = self.first.public_key(scalar.expose_secret()).ok_or(Fault)?;
        let second = self.second.public_key(scalar.expose_secret()).ok_or(Fault)?;
        if first == second { Ok(first) } else { Err(Fault) }
    }

    /// True if the bytes are a scalar in 1..n.
    pub fn is_scalar(&self, bytes: &Secret32) -> bool {
        self.first.is_scalar(bytes.expose_secret())
    }

    /// Signs a batch, in order, with every check of the mode.
    ///
    /// # Errors
    /// Any fault in any item: then no signature of the batch leaves.
    pub fn sign_batch(&mut self, items: &[Item<'_>], now_ms: u64) -> Result<Vec<Signature>, Fault> {
        let due = self.signed_since_randomized >= RANDOMIZE_AFTER_SIGNATURES
            || now_ms.saturating_sub(self.randomized_ms) >= RANDOMIZE_AFTER_MS;
        if due {
            self.randomize(now_ms)?;
        }
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        self.signed_since_randomized = self.signed_since_randomized.saturating_add(count);
        let signatures =
            items.iter().map(|item| self.sign_twice(item)).collect::<Result<Vec<_>, _>>()?;
        let mut checked = items.iter().zip(&signatures);
        let valid = match self.mode {
            VerifyMode::Full => checked.all(|(item, signature)| self.verifies(item, signature)),
            VerifyMode::OneOfBatch => match random_index(items.len())? {
                None => true,
                Some(index) => {
                    checked.nth(index).is_some_and(|(item, made)| self.verifies(item, made))
                }
            },
        };
        if valid { Ok(signatures) } else { Err(Fault) }
    }

    /// Signs one digest with recomputation and full verify, whatever the mode.
    ///
    /// # Errors
    /// Any fault.
    pub fn sign_one(&self, item: &Item<'_>) -> Result<Signature, Fault> {
        let signature = self.sign_twice(item)?;
        if self.verifies(item, &signature) { Ok(signature) } else { Err(Fault) }
    }

    fn sign_twice(&self, item: &Item<'_>) -> Result<Signature, Fault> {
        let first = self.first.sign(&item.digest, item.scalar.expose_secret()).ok_or(Fault)?;
        let second = self.second.sign(&item.digest, item.scalar.expose_secret()).ok_or(Fault)?;
        // After both: what changed before would be in both, what changes later is in neither.
        let intact = item.scalar.is_bound_to(item.public_key);
        if first == second && intact { Ok(first) } else { Err(Fault) }
    }

    fn verifies(&self, item: &Item<'_>, signature: &Signature) -> bool {
        self.first.verify(item.public_key, &item.digest, &signature.compact)
    }

    fn randomize(&mut self, now_ms: u64) -> Result<(), Fault> {
        for context in [&mut self.first, &mut self.second] {
            let mut seed = Zeroizing::new([0; 32]);
            rng::kernel(&mut *seed).map_err(|_| Fault)?;
            if !context.randomize(&seed) {
                return Err(Fault);
            }
        }
        self.signed_since_randomized = 0;
        self.randomized_ms = now_ms;
        Ok(())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// An index below `count`, or none for an empty batch. Eight bytes make the bias negligible.
fn random_index(count: usize) -> Result<Option<usize>, Fault> {
    let mut bytes = [0; 8];
    rng::kernel(&mut bytes).map_err(|_| Fault)?;
    let count = u64::try_from(count).map_err(|_| Fault)?;
    Ok(u64::from_le_bytes(bytes).checked_rem(count).and_then(|index| usize::try_from(index).ok()))
}

#[cfg(test)]
mod tests;
