//! The Nitro Secure Module behind one small trait. The production implementation is the device;
//! a development one is injected by `enclave/insecure`, a crate that no production binary reaches.

use crate::secret::Secret32;

pub mod device;

/// What an attestation document is asked to commit to. At most 512, 512 and 1,024 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DocumentRequest<'a> {
    /// Domain-separated user data, see `docs/formats.md`.
    pub user_data: Option<&'a [u8]>,
    /// The verifier's nonce.
    pub nonce: Option<&'a [u8]>,
    /// A public key, DER or raw.
    pub public_key: Option<&'a [u8]>,
}

/// The NSM refused or could not be asked. The text is for the console, never for the wire.
#[derive(Debug, thiserror::Error)]
#[error("NSM: {0}")]
pub struct NsmError(pub String);

/// A Nitro Secure Module. Calls are synchronous and may take milliseconds: one mutex guards the
/// device, so signing never waits for it.
pub trait Nsm: Send + Sync {
    /// A signed attestation document (COSE_Sign1).
    ///
    /// # Errors
    /// The module refuses.
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError>;

    /// 32 bytes from the module's random generator, to be mixed with the kernel's.
    ///
    /// # Errors
    /// The module refuses.
    fn entropy(&self) -> Result<Secret32, NsmError>;
}
