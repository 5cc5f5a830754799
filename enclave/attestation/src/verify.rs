//! Verifies a document: chain to a pinned root at a stated time, signature, no debug mode.
//!
//! The first certificate of `cabundle` must be the pinned root, byte for byte. It is never used as
//! an anchor; the rule makes "signed under another root" an answer of its own.

use std::convert::Infallible;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use minicbor::Encoder;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::aws_lc_rs::ECDSA_P384_SHA384;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use crate::certificate::{self, DIGITAL_SIGNATURE, KEY_CERT_SIGN};
use crate::document::{Document, DocumentError, PROTECTED, Signed};

/// AWS Nitro Enclaves root G1, `https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip`.
const AWS_ROOT_G1: &[u8] = include_bytes!("aws_root_g1.der");

/// DER of a P-384 `SubjectPublicKeyInfo` up to the point, which is 97 bytes (RFC 5480).
const P384_SPKI_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// The one certificate that documents must chain to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    certificate: CertificateDer<'static>,
}

/// A certificate that cannot be a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attestation root: not one certificate")]
pub struct TrustRootError;

/// Why a document is refused. One variant a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// `cabundle` does not start with the pinned root.
    #[error("chain: it starts at another root than the pinned one")]
    OtherRoot,
    /// A certificate was not valid any more.
    #[error("chain: a certificate had expired at the time of the check")]
    CertExpired,
    /// A certificate was not valid yet.
    #[error("chain: a certificate was not valid yet at the time of the check")]
    CertNotValidYet,
    /// No path of P-384 signatures leads from the leaf to the root.
    #[error("chain: the leaf certificate does not chain to the root with P-384 and SHA-384")]
    Chain,
    /// `cabundle` is not the path from the root to the leaf's issuer, in this order and no more.
    #[error("chain: cabundle is not the path from the root to the leaf's issuer, in order")]
    ChainOrder,
    /// A certificate says that its key is for something else.
    #[error(
        "chain: the key usage of a certificate is not that of its place, or the leaf has a path length"
    )]
    KeyUsage,
    /// The leaf's key is not on P-384.
    #[error("chain: the leaf's key is not a P-384 key")]
    LeafKey,
    /// The document's signature is not the leaf's.
    #[error("signature: not made by the leaf certificate's key over this payload")]
    Signature,
    /// PCR0, PCR1 and PCR2 are zero.
    #[error("debug: the enclave runs in debug mode (PCR0, PCR1 and PCR2 are zero)")]
    Debug,
}

impl TrustRoot {
    /// AWS' root for commercial regions.
    pub fn aws() -> Self {
        Self { certificate: CertificateDer::from(AWS_ROOT_G1) }
    }

    /// Another root: tests and development.
    ///
    /// # Errors
    /// The bytes are not one certificate.
    pub fn from_der(der: Vec<u8>) -> Result<Self, TrustRootError> {
        let certificate = CertificateDer::from(der);
        anchor_from_trusted_cert(&certificate).map_err(|_| TrustRootError)?;
        Ok(Self { certificate })
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }
}

/// Verifies a document at its own timestamp: its certificates lived three hours.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(bytes: &[u8], root: &TrustRoot) -> Result<Document, VerifyError> {
    let document = check_allowing_debug(bytes, root, None)?;
    if document.is_debug() { Err(VerifyError::Debug) } else { Ok(document) }
}

/// Verifies a document of an enclave that may be in debug mode ([`Document::is_debug`]), to which
/// nothing may be trusted. Its chain must be valid at `at_ms`, milliseconds since 1970; without it
/// at the document's own timestamp.
///
/// # Errors
/// See [`VerifyError`].
pub fn check_allowing_debug(
    bytes: &[u8],
    root: &TrustRoot,
    at_ms: Option<u64>,
) -> Result<Document, VerifyError> {
    let Signed { document, payload, signature } = Document::parse_signed(bytes)?;
    let Some((first, intermediates)) = document.cabundle.split_first() else {
        return Err(VerifyError::OtherRoot);
    };
    if first.as_slice() != root.der() {
        return Err(VerifyError::OtherRoot);
    }
    let leaf = CertificateDer::from(document.certificate.as_slice());
    let intermediates: Vec<_> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    chain(&leaf, &intermediates, root, at_ms.unwrap_or(document.timestamp_ms))?;
    check_signature(&leaf, payload, signature)?;
    Ok(document)
}

/// Checks what leads from the root to the leaf: validity, signatures, basic constraints, order, key
/// usage. AWS' certificates carry no extended key usage; webpki's client role asks for none and
/// refuses one that says something else. Revocation lists are not consulted: AWS says that they
/// must not be.
fn chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    root: &TrustRoot,
    at_ms: u64,
) -> Result<(), VerifyError> {
    let time = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
    let anchor = anchor_from_trusted_cert(&root.certificate).map_err(|_| VerifyError::Chain)?;
    let anchors = [anchor];
    // An anchor has no validity for webpki. Taken as a leaf the root is refused, but for its time
    // first; a test holds webpki to this order.
    let root_as_leaf = EndEntityCert::try_from(&root.certificate).map_err(path_error)?;
    let out_of_time = find_path(&root_as_leaf, &anchors, &[], time).map(drop);
    if let Err(error @ (VerifyError::CertExpired | VerifyError::CertNotValidYet)) = out_of_time {
        return Err(error);
    }
    let end_entity = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let path = find_path(&end_entity, &anchors, intermediates, time)?;
    let used = path.intermediate_certificates().map(webpki::Cert::der);
    if !used.eq(intermediates.iter().rev().cloned()) {
        return Err(VerifyError::ChainOrder);
    }
    let mut issuers = intermediates.iter().chain([&root.certificate]);
    if issuers.all(|issuer| certificate::may(issuer, KEY_CERT_SIGN))
        && certificate::may(leaf, DIGITAL_SIGNATURE)
        && !certificate::has_path_length(leaf)
    {
        Ok(())
    } else {
        Err(VerifyError::KeyUsage)
    }
}

fn find_path<'a>(
    leaf: &'a EndEntityCert<'a>,
    anchors: &'a [TrustAnchor<'a>],
    intermediates: &'a [CertificateDer<'a>],
    time: UnixTime,
) -> Result<VerifiedPath<'a>, VerifyError> {
    let (algorithms, usage) = (&[ECDSA_P384_SHA384], KeyUsage::client_auth());
    leaf.verify_for_usage(algorithms, anchors, intermediates, time, usage, None, None)
        .map_err(path_error)
}

#[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
fn path_error(error: webpki::Error) -> VerifyError {
    match error {
        webpki::Error::CertExpired { .. } => VerifyError::CertExpired,
        webpki::Error::CertNotValidYet { .. } => VerifyError::CertNotValidYet,
        _ => VerifyError::Chain,
    }
}

fn check_signature(
    leaf: &CertificateDer<'_>,
    payload: &[u8],
    signature: &[u8; 96],
) -> Result<(), VerifyError> {
    let leaf = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let spki = leaf.subject_public_key_info();
    let point = spki.strip_prefix(&P384_SPKI_PREFIX).filter(|point| point.len() == 97);
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point.ok_or(VerifyError::LeafKey)?);
    let message = sig_structure(payload).map_err(|_| VerifyError::Signature)?;
    key.verify(&message, signature).map_err(|_| VerifyError::Signature)
}

/// What ES384 signs (RFC 9052, section 4.4): `["Signature1", protected, external aad, payload]`,
/// over the payload as it was received.
fn sig_structure(payload: &[u8]) -> Result<Vec<u8>, minicbor::encode::Error<Infallible>> {
    let mut encoder = Encoder::new(Vec::with_capacity(payload.len().saturating_add(32)));
    encoder.array(4)?.str("Signature1")?.bytes(&PROTECTED)?.bytes(&[])?.bytes(payload)?;
    Ok(encoder.into_writer())
}
