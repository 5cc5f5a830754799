//! A Nitro Secure Module in software: real documents, real signatures, and a root whose key
//! everybody has. PCR0-3 follow the process rule of `docs/formats.md`, "Measurements".

mod authority;
mod document;
mod resigned;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::secret::Secret32;
use sigil_image_authoring::measure::{self, ProcessPcrs};

pub use authority::{Chain, TestRoot, Validity, test_root_der};
pub use document::TestDocument;
pub use resigned::ResigningNsm;

/// Bytes of user data and of a nonce, from the NSM's specification.
const FIELD_BYTES_MAX: usize = 512;
/// Bytes of a public key, from the same.
const PUBLIC_KEY_BYTES_MAX: usize = 1_024;
/// How long before its end a leaf certificate is replaced, as AWS does.
const RENEW_BEFORE_MS: u64 = 15 * 60 * 1_000;

/// Milliseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The software module.
pub struct SoftwareNsm {
    pcrs: ProcessPcrs,
    clock: WallClock,
    chains: Chains,
}

/// Chains under the committed root, the present one kept.
struct Chains {
    root: TestRoot,
    present: Mutex<Option<Arc<Chain>>>,
}

/// The clock of this machine.
pub fn system_clock() -> WallClock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl SoftwareNsm {
    /// A module that measured this executable and these pins, on the clock of this machine.
    ///
    /// # Errors
    /// No certificate can be issued.
    pub fn new(executable: &[u8], pins: &[u8]) -> Result<Self, NsmError> {
        Self::with_pcrs(measure::process(executable, pins), system_clock())
    }

    /// A module with given registers and clock.
    ///
    /// # Errors
    /// No certificate can be issued.
    pub fn with_pcrs(pcrs: ProcessPcrs, clock: WallClock) -> Result<Self, NsmError> {
        let chains = Chains::new()?;
        chains.at(clock())?;
        Ok(Self { pcrs, clock, chains })
    }
}

impl Chains {
    fn new() -> Result<Self, NsmError> {
        // Keeps the marker in every binary that can sign, whatever its `main` does.
        std::hint::black_box(crate::MARKER);
        Ok(Self { root: TestRoot::committed()?, present: Mutex::default() })
    }

    /// The present chain, replaced in time.
    fn at(&self, now_ms: u64) -> Result<Arc<Chain>, NsmError> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = |chain: &&mut Arc<Chain>| {
            let Validity { not_before_ms, not_after_ms } = chain.leaf_validity;
            now_ms >= not_before_ms && now_ms.saturating_add(RENEW_BEFORE_MS) < not_after_ms
        };
        if let Some(chain) = present.as_mut().filter(serves) {
            return Ok(Arc::clone(chain));
        }
        let chain = Arc::new(self.root.issue(Validity::aws(now_ms))?);
        *present = Some(Arc::clone(&chain));
        Ok(chain)
    }
}

impl Nsm for SoftwareNsm {
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        let DocumentRequest { user_data, nonce, public_key } = request;
        let bounds = [
            ("user_data", user_data, FIELD_BYTES_MAX),
            ("nonce", nonce, FIELD_BYTES_MAX),
            ("public_key", public_key, PUBLIC_KEY_BYTES_MAX),
        ];
        for (name, field, bytes_max) in bounds {
            if field.is_some_and(|field| field.len() > bytes_max) {
                return Err(NsmError(format!("{name} is longer than {bytes_max} bytes")));
            }
        }
        let now_ms = (self.clock)();
        let mut document = TestDocument::new(now_ms, self.pcrs);
        document.user_data(user_data).nonce(nonce).public_key(public_key);
        document.sign(&*self.chains.at(now_ms)?)
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        let mut entropy = Secret32::zeroed().map_err(|full| NsmError(full.to_string()))?;
        aws_lc_rs::rand::fill(entropy.expose_secret_mut())
            .map_err(|_| NsmError("no randomness".into()))?;
        Ok(entropy)
    }
}

#[cfg(test)]
mod tests;
