//! `open-envelope`: opens `CiphertextForRecipient` with the reader and the decryption that the
//! enclave uses.

use aws_lc_rs::rsa::PrivateDecryptingKey;
use sigil_enclave::kms_exchange::{EnvelopeError, RecipientKey};
use zeroize::Zeroizing;

/// PKCS#8 (RFC 5208) around a PKCS#1 key: version 0, rsaEncryption with NULL.
const PKCS8_PREFIX: [u8; 18] =
    [2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// Why nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not an RSA private key.
    #[error("key: neither PKCS#1 nor PKCS#8 DER of an RSA private key")]
    Key,
    /// A key of a size that KMS is never given.
    #[error("key: not RSA-2048")]
    KeySize,
    /// Not an envelope of the form that KMS makes.
    #[error("malformed: not an EnvelopedData of the form that KMS makes, for one recipient")]
    Malformed,
    /// For another key.
    #[error("other-recipient: the envelope is for another key")]
    OtherRecipient,
    /// It does not decrypt.
    #[error("closed: the envelope does not decrypt to a key of 32 bytes")]
    Closed,
    /// It decrypts, and memory for secrets is full.
    #[error("no-room: too many secrets are in memory")]
    NoRoom,
}

/// The 32 bytes in an envelope. An envelope is not authenticated: whoever knows the public key can
/// make one, and a change of the IV or of the content shows only where it spoils the padding.
///
/// # Errors
/// See [`OpenError`].
pub fn open(key_der: &[u8], envelope: &[u8]) -> Result<Zeroizing<[u8; 32]>, OpenError> {
    let private = PrivateDecryptingKey::from_pkcs8(key_der)
        .or_else(|error| PrivateDecryptingKey::from_pkcs8(&pkcs8(key_der).ok_or(error)?))
        .map_err(|_| OpenError::Key)?;
    if private.key_size_bytes() != 256 {
        return Err(OpenError::KeySize);
    }
    let recipient = RecipientKey::new(private).map_err(|_| OpenError::Key)?;
    let opened = recipient.open(envelope).map_err(|error| match error {
        EnvelopeError::Malformed => OpenError::Malformed,
        EnvelopeError::OtherRecipient => OpenError::OtherRecipient,
        EnvelopeError::Closed => OpenError::Closed,
        EnvelopeError::NoRoom => OpenError::NoRoom,
    })?;
    Ok(Zeroizing::new(*opened.expose_secret()))
}

/// A PKCS#1 key in PKCS#8. Keys have far more than 255 bytes and fewer than 65,536.
fn pkcs8(pkcs1: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let long = |tag: u8, length: usize| {
        u16::try_from(length).ok().map(|length| [&[tag, 0x82], &length.to_be_bytes()[..]].concat())
    };
    let octets = long(0x04, pkcs1.len())?;
    let sequence = long(0x30, PKCS8_PREFIX.len() + octets.len() + pkcs1.len())?;
    Some(Zeroizing::new([&sequence[..], &PKCS8_PREFIX, &octets, pkcs1].concat()))
}
