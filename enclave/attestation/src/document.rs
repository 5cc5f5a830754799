//! Parses a document: strict, bounded, and without any claim about its truth. Use
//! [`crate::verify()`] for that.
//!
//! Form, as the NSM writes it: an untagged COSE_Sign1 (tag 18 is accepted too) with the protected
//! header {1: -35} alone, an empty unprotected header, the payload in a byte string, and 96 bytes
//! r | s. Payload maps were of definite length until 2025 and are of indefinite length since;
//! absent optional fields are `null`.

mod parse;

pub(crate) use parse::PROTECTED;

use crate::user_data::{UserData, UserDataError};

/// A platform configuration register, SHA-384.
pub type Pcr = [u8; 48];

/// The registers a document names.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pcrs(std::collections::BTreeMap<u8, Pcr>);

/// The fields of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which NSM signed: instance and enclave, at most 128 bytes.
    pub module_id: String,
    /// When it signed, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The registers.
    pub pcrs: Pcrs,
    /// The leaf certificate, DER.
    pub certificate: Vec<u8>,
    /// The chain from the root down to the leaf's issuer, DER.
    pub cabundle: Vec<Vec<u8>>,
    /// What the enclave asked to be bound, at most 1,024 bytes.
    pub public_key: Option<Vec<u8>>,
    /// What the enclave asked to be bound, at most 1,024 bytes.
    pub user_data: Option<Vec<u8>>,
    /// The verifier's nonce, at most 1,024 bytes.
    pub nonce: Option<Vec<u8>>,
}

/// Why bytes are no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than [`crate::bounds::DOCUMENT_BYTES_MAX`].
    #[error("document: longer than 16,384 bytes")]
    TooLarge,
    /// Not an array of four: protected, unprotected, payload, signature.
    #[error("document: not a COSE_Sign1 structure")]
    Cose,
    /// The protected header is not {1: -35}.
    #[error("document: the signature algorithm is not ES384, or the protected header has more")]
    Algorithm,
    /// The unprotected header has entries.
    #[error("document: the unprotected header is not empty")]
    Unprotected,
    /// The signature is not 96 bytes.
    #[error("document: the signature is not 96 bytes long")]
    SignatureLength,
    /// Bytes after the document or after its payload.
    #[error("document: trailing bytes")]
    TrailingBytes,
    /// The payload is not CBOR of the expected types.
    #[error("document: the payload's `{0}` is malformed")]
    Malformed(&'static str),
    /// A key or PCR index occurs twice.
    #[error("document: the payload has a duplicate in `{0}`")]
    Duplicate(&'static str),
    /// A key that no document has.
    #[error("document: the payload has an unknown key")]
    UnknownKey,
    /// A required key is not there.
    #[error("document: the payload has no `{0}`")]
    Missing(&'static str),
    /// A value is too short, too long or too many.
    #[error("document: the payload's `{0}` is out of bounds")]
    OutOfBounds(&'static str),
    /// The registers are of another digest.
    #[error("document: the digest is not SHA384")]
    Digest,
    /// A document of a NitroTPM: an instance, not an enclave.
    #[error("document: made by a NitroTPM, not by an enclave")]
    NitroTpm,
}

/// A document with the bytes its signature covers.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) document: Document,
    pub(crate) payload: &'a [u8],
    pub(crate) signature: &'a [u8; 96],
}

impl Document {
    /// Reads a document *without verifying anything*: for display and for tests.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse_unverified(bytes: &[u8]) -> Result<Self, DocumentError> {
        parse::cose_sign1(bytes).map(|signed| signed.document)
    }

    pub(crate) fn parse_signed(bytes: &[u8]) -> Result<Signed<'_>, DocumentError> {
        parse::cose_sign1(bytes)
    }

    /// A register.
    pub fn pcr(&self, index: u8) -> Option<Pcr> {
        self.pcrs.get(index).copied()
    }

    /// What the document commits to, if it is one of Sigil's.
    ///
    /// # Errors
    /// No user data, or none of ours.
    pub fn user_data(&self) -> Result<UserData, UserDataError> {
        UserData::decode(self.user_data.as_deref().ok_or(UserDataError)?)
    }

    /// True for an enclave in debug mode, whose console the parent reads: PCR0, PCR1 and PCR2 are
    /// all zero or absent (PCR3 and PCR4 stay set).
    pub fn is_debug(&self) -> bool {
        (0..=2).all(|index| self.pcrs.get(index).is_none_or(|pcr| *pcr == [0; 48]))
    }
}

impl Pcrs {
    /// A register, if the document names it.
    pub fn get(&self, index: u8) -> Option<&Pcr> {
        self.0.get(&index)
    }

    /// The registers by index, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Pcr)> {
        self.0.iter().map(|(index, pcr)| (*index, pcr))
    }
}

impl FromIterator<(u8, Pcr)> for Pcrs {
    fn from_iter<I: IntoIterator<Item = (u8, Pcr)>>(registers: I) -> Self {
        Self(registers.into_iter().collect())
    }
}
