//! The RSA key to which KMS encrypts its answer.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::cms::{self, Envelope};
use crate::secret::Secret32;

/// Bytes of the modulus, and of what OAEP encrypts with it.
pub(super) const RSA_BYTES: usize = 256;

/// PKCS#7 after two blocks: one more. Compared as a whole: to look for its end takes a time that
/// depends on what was decrypted.
const PADDING: [u8; 16] = [16; 16];

/// RSA-2048: the only size that AWS documents for this. Made once a boot; the private half never
/// leaves this type.
pub struct RecipientKey {
    private: OaepPrivateDecryptingKey,
    spki_der: Vec<u8>,
    key_identifier: [u8; 32],
}

/// The key could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RSA key generation failed")]
pub struct RecipientError;

/// Why an envelope gives no DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Not of the one structure that KMS makes.
    Malformed,
    /// For another recipient key.
    OtherRecipient,
    /// It does not decrypt to 32 bytes. One error for RSA, OAEP, AES, padding and length.
    Closed,
    /// It opens, and no slot is free for the DEK.
    NoRoom,
}

impl RecipientKey {
    /// Makes a key, in about 50 ms.
    ///
    /// # Errors
    /// The generator failed.
    pub fn generate() -> Result<Self, RecipientError> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048);
        Self::new(private.map_err(|_| RecipientError)?)
    }

    /// Of a given private half: an own one for tests and tools, which open published envelopes.
    ///
    /// # Errors
    /// Its public half cannot be written.
    pub fn new(private: PrivateDecryptingKey) -> Result<Self, RecipientError> {
        let spki: PublicKeyX509Der<'_> =
            private.public_key().as_der().map_err(|_| RecipientError)?;
        let spki_der = spki.as_ref().to_vec();
        let mut key_identifier = [0; 32];
        key_identifier.copy_from_slice(digest(&SHA256, &spki_der).as_ref());
        let private = OaepPrivateDecryptingKey::new(private).map_err(|_| RecipientError)?;
        Ok(Self { private, spki_der, key_identifier })
    }

    /// The public half as SubjectPublicKeyInfo, for the attestation document; 294 bytes.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// Opens `CiphertextForRecipient`.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn open(&self, envelope: &[u8]) -> Result<Secret32, EnvelopeError> {
        let envelope = cms::parse(envelope).map_err(|_| EnvelopeError::Malformed)?;
        if envelope.key_identifier != self.key_identifier {
            return Err(EnvelopeError::OtherRecipient);
        }
        let mut dek = Secret32::zeroed().map_err(|_| EnvelopeError::NoRoom)?;
        self.decrypt(envelope, &mut dek).ok_or(EnvelopeError::Closed)?;
        Ok(dek)
    }

    fn decrypt(&self, envelope: Envelope<'_>, dek: &mut Secret32) -> Option<()> {
        let mut rsa_output = Zeroizing::new([0; RSA_BYTES]);
        let content_key = self.private.decrypt(
            &OAEP_SHA256_MGF1SHA256,
            envelope.encrypted_key,
            rsa_output.as_mut_slice(),
            None,
        );
        let cipher = UnboundCipherKey::new(&AES_256, content_key.ok()?).ok()?;
        let cipher = DecryptingKey::cbc(cipher).ok()?;
        let iv = DecryptionContext::Iv128(FixedLength::from(envelope.iv));
        let mut content = Zeroizing::new(envelope.content);
        let plaintext: &[u8] = cipher.decrypt(&mut content, iv).ok()?;
        let (plaintext, padding) = plaintext.split_first_chunk::<32>()?;
        dek.expose_secret_mut().copy_from_slice(plaintext);
        bool::from(padding.ct_eq(&PADDING)).then_some(())
    }
}

impl std::fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecipientKey(redacted)")
    }
}

#[cfg(test)]
pub(super) mod tests;
