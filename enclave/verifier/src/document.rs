//! Documents at a verifier's own time, and live ones: fresh, and with its nonce.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sigil_attestation::{Document, TrustRoot, TrustRootError, VerifyError};
use subtle::ConstantTimeEq;

use crate::bounds::CLOCK_LEEWAY_MS;

/// At which time the chain must be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyTime {
    /// At the document's own timestamp: stored documents, whose certificates lived three hours.
    AtDocument,
    /// At the verifier's time, milliseconds since 1970; a clock behind by up to
    /// [`CLOCK_LEEWAY_MS`] is allowed for.
    At {
        /// The verifier's time.
        now_ms: u64,
    },
}

/// A verified document, of an enclave that may be in debug mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The document.
    pub document: Document,
    /// At which time the chain was valid, milliseconds since 1970.
    pub chain_time_ms: u64,
}

/// Why a document is refused that should be live. One variant a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// It does not verify.
    #[error(transparent)]
    Document(#[from] VerifyError),
    /// It is older than the verifier allows.
    #[error("timestamp: the document is too old")]
    TooOld,
    /// It is from the future by more than [`CLOCK_LEEWAY_MS`].
    #[error("timestamp: the document is from the future; check the clock of this machine")]
    FromFuture,
    /// The nonce is absent or another.
    #[error("nonce: not the verifier's")]
    Nonce,
}

/// A root from a file of either form; a PEM file holds one certificate.
///
/// # Errors
/// The bytes are not one certificate.
pub fn root_from_pem_or_der(bytes: &[u8]) -> Result<TrustRoot, TrustRootError> {
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return TrustRoot::from_der(bytes.to_vec());
    }
    let mut certificates = CertificateDer::pem_slice_iter(bytes);
    match (certificates.next(), certificates.next()) {
        (Some(Ok(one)), None) => TrustRoot::from_der(one.to_vec()),
        _ => Err(TrustRootError),
    }
}

/// Verifies a document.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(bytes: &[u8], root: &TrustRoot, time: VerifyTime) -> Result<Document, VerifyError> {
    let Checked { document, .. } = check_allowing_debug(bytes, root, time)?;
    if document.is_debug() { Err(VerifyError::Debug) } else { Ok(document) }
}

/// Verifies a document that was just made for this verifier: at its time, not older than
/// `age_ms_max`, and with its nonce.
///
/// # Errors
/// See [`LiveError`].
pub fn verify_live(
    bytes: &[u8],
    root: &TrustRoot,
    now_ms: u64,
    nonce: &[u8],
    age_ms_max: u64,
) -> Result<Document, LiveError> {
    let document = verify(bytes, root, VerifyTime::At { now_ms })?;
    check_age(document.timestamp_ms, now_ms, age_ms_max)?;
    let given = document.nonce.as_deref().unwrap_or_default();
    // An empty nonce asks for nothing, so it is never right.
    if nonce.is_empty() || !bool::from(given.ct_eq(nonce)) {
        return Err(LiveError::Nonce);
    }
    Ok(document)
}

/// Checks that a timestamp is neither in the future nor older than `age_ms_max`.
///
/// # Errors
/// [`LiveError::FromFuture`] or [`LiveError::TooOld`].
pub fn check_age(timestamp_ms: u64, now_ms: u64, age_ms_max: u64) -> Result<(), LiveError> {
    if timestamp_ms > now_ms.saturating_add(CLOCK_LEEWAY_MS) {
        return Err(LiveError::FromFuture);
    }
    let age_ms = now_ms.saturating_sub(timestamp_ms);
    if age_ms > age_ms_max { Err(LiveError::TooOld) } else { Ok(()) }
}

/// Verifies a document like [`verify`], one of an enclave in debug mode too
/// ([`Document::is_debug`]): for tools that show documents. Nothing may be trusted to such an enclave.
///
/// # Errors
/// See [`VerifyError`].
pub fn check_allowing_debug(
    bytes: &[u8],
    root: &TrustRoot,
    time: VerifyTime,
) -> Result<Checked, VerifyError> {
    let check = |at_ms| sigil_attestation::check_allowing_debug(bytes, root, at_ms);
    let VerifyTime::At { now_ms } = time else {
        let document = check(None)?;
        return Ok(Checked { chain_time_ms: document.timestamp_ms, document });
    };
    let late_ms = now_ms.saturating_add(CLOCK_LEEWAY_MS);
    let (checked, chain_time_ms) = match check(Some(now_ms)) {
        Err(VerifyError::CertNotValidYet) => (check(Some(late_ms)), late_ms),
        checked => (checked, now_ms),
    };
    Ok(Checked { document: checked?, chain_time_ms })
}
