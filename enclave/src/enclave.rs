//! What all workers and the control thread share.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::Digest;
use sigil_attestation::{Document, TrustRoot, UserData, verify};
use sigil_enclave_image::Pins;
use sigil_enclave_protocol::handshake::BootId;
use sigil_enclave_protocol::v1::ErrorCode;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::attest::Rate;
use crate::clock::{Clock, boot_ms};
use crate::dek::DekTable;
use crate::key_cache::KeyCache;
use crate::keys::KeyName;
use crate::nsm::{DocumentRequest, Nsm, NsmError};
use crate::rng::{Rng, RngSource};
use crate::statements::Statements;
use crate::stats::{Count, WorkerStats};
use crate::unlock::Unlocks;

/// One boot of an enclave.
pub struct Enclave {
    /// What the image is pinned to.
    pub pins: Pins,
    /// SHA-384 of `pins.cbor`.
    pub pins_sha384: Digest,
    /// This boot.
    pub boot_id: BootId,
    /// PCR0 of this image, once a document of our own has verified.
    pub(crate) pcr0: OnceLock<[u8; 48]>,
    /// Signing workers.
    pub workers: u16,
    /// Boot clock at the start.
    pub started_ms: u64,
    pub(crate) root: TrustRoot,
    pub(crate) nsm: Arc<dyn Nsm>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) rng_seen: RngSeen,
    pub(crate) deks: DekTable,
    pub(crate) cache: KeyCache,
    pub(crate) statements: Statements,
    pub(crate) unlocks: Unlocks,
    pub(crate) attest_rate: Rate,
    /// What each worker counts.
    pub worker_stats: Vec<Arc<WorkerStats>>,
    /// Microseconds in which all signing contexts were made, blinded and tested.
    pub engine_init_us: Count,
    /// True from the call `Drain` on.
    pub draining: watch::Sender<bool>,
    /// The control thread: NSM, RSA, TLS and document checks run there, never on a worker.
    pub(crate) control: Handle,
}

/// A document of our own, verified.
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) document: Document,
    /// Boot clock just before it was made: what is bound to it ages from here.
    pub(crate) asked_ms: u64,
}

/// Why there is no document that we may use ourselves.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// The module refuses.
    #[error(transparent)]
    Nsm(#[from] NsmError),
    /// The image is pinned to another root, or this is no machine of AWS's.
    #[error("its own documents do not verify against the pinned attestation root")]
    Unverified,
}

impl Enclave {
    /// A document of this boot, verified against the pinned root; also corrects the wall clock.
    pub(crate) fn document(
        &self,
        user_data: &UserData,
        public_key: Option<&[u8]>,
    ) -> Result<Made, DocumentError> {
        let user_data = user_data.encode();
        let asked_ms = boot_ms();
        let request = DocumentRequest { user_data: Some(&user_data), nonce: None, public_key };
        let bytes = self.nsm.document(request)?;
        let received_ms = boot_ms();
        let document = verify(&bytes, &self.root).map_err(|_| DocumentError::Unverified)?;
        let pcr0 = document.pcr(0).ok_or(DocumentError::Unverified)?;
        self.pcr0.get_or_init(|| pcr0);
        self.clock.observe(document.timestamp_ms, received_ms);
        Ok(Made { bytes, document, asked_ms })
    }

    /// Binds the statement key of this boot to a new document.
    pub(crate) fn bind_statement_key(&self) -> Result<(), DocumentError> {
        let user_data = UserData::StatementKey { boot_id: self.boot_id.0 };
        let made = self.document(&user_data, Some(self.statements.public_key()))?;
        self.statements.bind(made.bytes, made.document.timestamp_ms);
        Ok(())
    }

    /// PCR0 of this image. Zeros, which no verified document has, while none has verified: no DEK
    /// can be unlocked until then.
    pub(crate) fn pcr0(&self) -> [u8; 48] {
        self.pcr0.get().copied().unwrap_or([0; 48])
    }

    /// True once a document of our own has verified against the pinned root.
    pub fn documents_verify(&self) -> bool {
        self.pcr0.get().is_some()
    }

    /// A live document for the caller's nonce, as the NSM gives it: to verify it is the caller's
    /// part, and it must learn why if it cannot. Nothing while the rate is used up.
    ///
    /// # Errors
    /// The NSM refuses.
    pub fn attest(&self, nonce: &[u8]) -> Result<Option<Vec<u8>>, NsmError> {
        if !self.attest_rate.take(boot_ms()) {
            return Ok(None);
        }
        let user_data = UserData::Live { boot_id: self.boot_id.0 }.encode();
        let (user_data, nonce) = (Some(&*user_data), Some(nonce));
        self.nsm.document(DocumentRequest { user_data, nonce, public_key: None }).map(Some)
    }

    /// Erases a key from the cache. True if it was there.
    pub fn forget(&self, name: &KeyName) -> bool {
        self.cache.forget(name)
    }

    /// The kernel's random source as last looked at.
    pub fn rng_source(&self) -> RngSource {
        self.rng_seen.current()
    }

    /// Erases what has expired and looks at the random source. Every second, on the control thread.
    pub(crate) fn sweep(&self) {
        let now_ms = boot_ms();
        self.cache.sweep(now_ms, self.deks.sweep(now_ms));
        self.unlocks.sweep(now_ms);
        if self.rng_seen.look() && !self.rng_healthy() {
            eprintln!("sigil-enclave: the kernel's random source changed; nothing is served");
        }
    }

    /// Lets keys and DEKs be made, opened and used, or says why not. What only asks is answered all
    /// the same.
    ///
    /// # Errors
    /// The random source is not healthy, or the enclave is drained.
    pub fn gate(&self) -> Result<(), ErrorCode> {
        match (self.rng_healthy(), *self.draining.borrow()) {
            (false, _) => Err(ErrorCode::RngUnhealthy),
            (_, true) => Err(ErrorCode::Draining),
            _ => Ok(()),
        }
    }

    /// True while the random source is the one that is required.
    pub fn rng_healthy(&self) -> bool {
        self.rng_seen.current().is_healthy(self.pins.insecure)
    }
}

/// The random source as last looked at.
pub struct RngSeen {
    look: fn() -> RngSource,
    last: AtomicU8,
}

impl RngSeen {
    /// Looks for the first time.
    pub fn new(look: fn() -> RngSource) -> Self {
        Self { look, last: AtomicU8::new(look() as u8) }
    }

    /// Looks again. True if it changed.
    fn look(&self) -> bool {
        let now = (self.look)() as u8;
        self.last.swap(now, Ordering::Relaxed) != now
    }

    /// What was seen last.
    pub fn current(&self) -> RngSource {
        let last = self.last.load(Ordering::Relaxed);
        let mut known = [RngSource::NsmHwrng, RngSource::Software].into_iter();
        known.find(|source| *source as u8 == last).unwrap_or(RngSource::Other)
    }
}
