//! Signing with two contexts: each signature is made twice, with different blinding and different
//! SHA-256 code, and leaves only if both are equal byte for byte. One random item of a batch, or
//! each, is also verified. A single fault (a flipped bit, a bad core) then cannot leak a key.

pub use sigil_enclave_image::pins::VerifyMode;
use zeroize::Zeroizing;

use crate::rng;
use crate::secret::Secret32;

mod check_cpu;
mod ffi;

pub use check_cpu::{CHECK_CPU, CheckCpu};
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

/// Random bytes: a seed for each context, and what chooses the sample.
type Random = Zeroizing<[[u8; 32]; 3]>;

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
            signer.randomize(&draw()?, now_ms)?;
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
        let random = draw()?;
        let due = self.signed_since_randomized >= RANDOMIZE_AFTER_SIGNATURES
            || now_ms.saturating_sub(self.randomized_ms) >= RANDOMIZE_AFTER_MS;
        if due {
            self.randomize(&random, now_ms)?;
        }
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        self.signed_since_randomized = self.signed_since_randomized.saturating_add(count);
        let made = items.iter().map(|item| self.sign(item)).collect::<Result<Vec<_>, _>>()?;
        let checked = CHECK_CPU.sample(made.len(), || self.checks(items, &made, &random[2]));
        if checked { Ok(made) } else { Err(Fault) }
    }

    /// Every check of the mode. `random` chooses the sample.
    fn checks(&self, items: &[Item<'_>], made: &[Signature], random: &[u8; 32]) -> bool {
        let mut pairs = items.iter().zip(made);
        if !pairs.clone().all(|(item, made)| self.makes_again(item, made)) {
            return false;
        }
        match self.mode {
            VerifyMode::Full => pairs.all(|(item, made)| self.verifies(item, made)),
            VerifyMode::BatchSample => match index_below(items.len(), random) {
                None => items.is_empty(),
                Some(index) => {
                    pairs.nth(index).is_some_and(|(item, made)| self.verifies(item, made))
                }
            },
        }
    }

    /// Signs one digest with recomputation and full verify, whatever the mode.
    ///
    /// # Errors
    /// Any fault.
    pub fn sign_one(&self, item: &Item<'_>) -> Result<Signature, Fault> {
        let made = self.sign(item)?;
        let checked = self.makes_again(item, &made) && self.verifies(item, &made);
        if checked { Ok(made) } else { Err(Fault) }
    }

    fn sign(&self, item: &Item<'_>) -> Result<Signature, Fault> {
        self.first.sign(&item.digest, item.scalar.expose_secret()).ok_or(Fault)
    }

    /// True if the second context makes the same signature and the key is intact: what changed
    /// before is in both signatures, what changes later is in neither.
    fn makes_again(&self, item: &Item<'_>, made: &Signature) -> bool {
        let second = self.second.sign(&item.digest, item.scalar.expose_secret());
        second.as_ref() == Some(made) && item.scalar.is_bound_to(item.public_key)
    }

    fn verifies(&self, item: &Item<'_>, signature: &Signature) -> bool {
        self.first.verify(item.public_key, &item.digest, &signature.compact)
    }

    fn randomize(&mut self, random: &Random, now_ms: u64) -> Result<(), Fault> {
        let contexts = [&mut self.first, &mut self.second];
        if !contexts.into_iter().zip(&**random).all(|(context, seed)| context.randomize(seed)) {
            return Err(Fault);
        }
        self.signed_since_randomized = 0;
        self.randomized_ms = now_ms;
        Ok(())
    }
}

/// What a batch needs, with one system call.
fn draw() -> Result<Random, Fault> {
    let mut random = Random::default();
    rng::kernel(random.as_flattened_mut()).map_err(|_| Fault)?;
    Ok(random)
}

/// An index below `count`, or none for an empty batch. Eight bytes make the bias negligible.
fn index_below(count: usize, random: &[u8; 32]) -> Option<usize> {
    let drawn = u64::from_le_bytes(*random.first_chunk()?);
    usize::try_from(drawn.checked_rem(u64::try_from(count).ok()?)?).ok()
}

#[cfg(test)]
mod tests;
