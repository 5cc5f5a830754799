//! Randomness. Key material mixes two independent sources, so that one bad one is not enough:
//! HKDF(kernel generator | NSM entropy | counter). The NSM is one mutex for the whole guest and
//! takes milliseconds, so its part is fetched off-path and nothing on a request waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::kdf;
use crate::nsm::{Nsm, NsmError};
use crate::secret::Secret32;

const SALT: &[u8] = b"sigil/rng/v1";
/// Seconds between two fetches of NSM entropy.
pub const NSM_ENTROPY_EVERY_S: u64 = 60;

/// The kernel's current source of hardware randomness. Closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RngSource {
    /// The Nitro Secure Module.
    NsmHwrng,
    /// None is asked for: process mode.
    Software,
    /// Any other.
    Other,
}

impl RngSource {
    /// Reads what the kernel says.
    pub fn of_kernel() -> Self {
        let current = std::fs::read_to_string("/sys/class/misc/hw_random/rng_current");
        match current.as_deref().map(str::trim) {
            Ok("nsm-hwrng") => Self::NsmHwrng,
            _ => Self::Other,
        }
    }

    /// True if keys may be made and used.
    pub fn is_healthy(self, insecure: bool) -> bool {
        self == Self::NsmHwrng || (insecure && self == Self::Software)
    }
}

/// The kernel gave no random bytes, or a derivation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no randomness")]
pub struct RngError;

/// Source of key material, shared by all workers.
pub struct Rng {
    nsm_entropy: Mutex<Secret32>,
    counter: AtomicU64,
}

impl Rng {
    /// Starts with entropy of the NSM.
    ///
    /// # Errors
    /// The NSM refuses.
    pub fn new(nsm: &dyn Nsm) -> Result<Self, NsmError> {
        Ok(Self { nsm_entropy: Mutex::new(nsm.entropy()?), counter: AtomicU64::new(0) })
    }

    /// Replaces the NSM's part. Called off-path every [`NSM_ENTROPY_EVERY_S`] seconds.
    ///
    /// # Errors
    /// The NSM refuses; the earlier entropy stays in use.
    pub fn refresh(&self, nsm: &dyn Nsm) -> Result<(), NsmError> {
        let fresh = nsm.entropy()?;
        *self.nsm_entropy.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Fills a slot with key material. `label` separates uses.
    ///
    /// # Errors
    /// The kernel's generator fails.
    pub fn key_material(&self, label: &[u8], out: &mut Secret32) -> Result<(), RngError> {
        let mut input = Zeroizing::new([0; 72]);
        kernel(&mut input[..32])?;
        let nsm_entropy = self.nsm_entropy.lock().unwrap_or_else(PoisonError::into_inner);
        input[32..64].copy_from_slice(nsm_entropy.expose_secret());
        drop(nsm_entropy);
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        input[64..].copy_from_slice(&counter.to_be_bytes());
        kdf::expand(&kdf::extract(SALT, &*input), &[label], out.expose_secret_mut())
            .map_err(|_| RngError)
    }
}

/// Fills `out` from the kernel's generator.
///
/// # Errors
/// The system call fails.
pub fn kernel(out: &mut [u8]) -> Result<(), RngError> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(RngError),
        }
    }
    Ok(())
}

/// Public random bytes: identifiers and nonces.
///
/// # Errors
/// The kernel's generator fails.
pub fn public_bytes<const N: usize>() -> Result<[u8; N], RngError> {
    let mut out = [0; N];
    kernel(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nsm::DocumentRequest;

    struct Entropy(u8);

    impl Nsm for Entropy {
        fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
            Err(NsmError("no documents here".into()))
        }

        fn entropy(&self) -> Result<Secret32, NsmError> {
            match self.0 {
                0 => Err(NsmError("no entropy".into())),
                byte => Ok(Secret32::copy_from(&[byte; 32]).unwrap()),
            }
        }
    }

    #[test]
    fn no_two_outputs_are_equal_and_labels_separate() {
        let rng = Rng::new(&Entropy(1)).unwrap();
        let mut seen = std::collections::HashSet::new();
        for label in [b"a".as_slice(), b"b", b"a"] {
            let mut out = Secret32::zeroed().unwrap();
            rng.key_material(label, &mut out).unwrap();
            assert!(seen.insert(*out.expose_secret()));
        }
    }

    #[test]
    fn a_failing_nsm_stops_the_start_and_not_the_running_generator() {
        assert!(Rng::new(&Entropy(0)).is_err());
        let rng = Rng::new(&Entropy(1)).unwrap();
        assert!(rng.refresh(&Entropy(0)).is_err());
        assert_eq!(rng.nsm_entropy.lock().unwrap().expose_secret(), &[1; 32]);
        rng.refresh(&Entropy(2)).unwrap();
        assert_eq!(rng.nsm_entropy.lock().unwrap().expose_secret(), &[2; 32]);
        rng.key_material(b"x", &mut Secret32::zeroed().unwrap()).unwrap();
    }
}
