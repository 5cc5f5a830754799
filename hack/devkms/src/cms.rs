//! `CiphertextForRecipient` as AWS KMS makes it for RSA-2048 keys: byte for byte its structure, but
//! for key identifier, IV and ciphertexts.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};

use crate::error::ApiError;

/// Bits of a recipient key; AWS documents no other.
const RSA_BITS: usize = 2_048;
const AES_KEY_BYTES: usize = 32;

/// ContentInfo, `[0]` and EnvelopedData of indefinite length, then version 2.
const HEAD: &[u8] = &[
    0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03, 0xa0, 0x80, 0x30,
    0x80, 0x02, 0x01, 0x02,
];
/// KeyTransRecipientInfo: length 359, version 2, `[0]` of 32 bytes.
const RECIPIENT_HEAD: &[u8] = &[0x30, 0x82, 0x01, 0x67, 0x02, 0x01, 0x02, 0x80, 0x20];
/// RSAES-OAEP with SHA-256 and MGF1 with SHA-256, then an OCTET STRING of 256 bytes.
const RECIPIENT_MIDDLE: &[u8] = &[
    0x30, 0x3c, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07, 0x30, 0x2f, 0xa0,
    0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30,
    0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x82,
    0x01, 0x00,
];
/// EncryptedContentInfo of indefinite length: id-data, AES-256-CBC, then an OCTET STRING of 16.
const CONTENT_HEAD: &[u8] = &[
    0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01, 0x30, 0x1d, 0x06,
    0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a, 0x04, 0x10,
];
/// `[0]` of indefinite length, in which the content is one OCTET STRING.
const CHUNKS: &[u8] = &[0xa0, 0x80, 0x04];
/// The ends of everything of indefinite length.
const TAIL: &[u8] = &[0; 10];

/// An RSA-2048 key to which answers are encrypted.
#[derive(Debug)]
pub(crate) struct Recipient {
    key: OaepPublicEncryptingKey,
    key_identifier: [u8; 32],
}

impl Recipient {
    /// Takes the public key of an attestation document.
    pub(crate) fn new(spki_der: &[u8]) -> Result<Self, ApiError> {
        let refused = || ApiError::validation("The public key is not an RSA-2048 SPKI.");
        let key = PublicEncryptingKey::from_der(spki_der).map_err(|_| refused())?;
        if key.key_size_bits() != RSA_BITS {
            return Err(refused());
        }
        let mut key_identifier = [0; 32];
        key_identifier.copy_from_slice(digest(&SHA256, spki_der).as_ref());
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| refused())?;
        Ok(Self { key, key_identifier })
    }

    /// The same key under the name of another one.
    pub(crate) fn misnamed(mut self) -> Self {
        for byte in &mut self.key_identifier {
            *byte ^= 0xff;
        }
        self
    }

    fn info(&self, content_key: &[u8]) -> Result<Vec<u8>, ApiError> {
        let mut encrypted = vec![0; self.key.ciphertext_size()];
        let done = self.key.encrypt(&OAEP_SHA256_MGF1SHA256, content_key, &mut encrypted, None);
        done.map_err(|_| ApiError::internal("RSA-OAEP failed"))?;
        Ok([RECIPIENT_HEAD, &self.key_identifier, RECIPIENT_MIDDLE, &encrypted].concat())
    }
}

/// Encrypts `plaintext` to all `recipients`; AWS has one.
pub(crate) fn envelope(recipients: &[&Recipient], plaintext: &[u8]) -> Result<Vec<u8>, ApiError> {
    let broken = |_| ApiError::internal("AES-256-CBC failed");
    let mut content_key = [0; AES_KEY_BYTES];
    rand::fill(&mut content_key).map_err(broken)?;
    let cipher = UnboundCipherKey::new(&AES_256, &content_key).map_err(broken)?;
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(cipher).map_err(broken)?;
    let mut content = plaintext.to_vec();
    let DecryptionContext::Iv128(iv) = cipher.encrypt(&mut content).map_err(broken)? else {
        return Err(ApiError::internal("AES-256-CBC gave no IV"));
    };
    let mut infos = Vec::new();
    for recipient in recipients {
        infos.extend(recipient.info(&content_key)?);
    }
    let set_bytes = u16::try_from(infos.len()).map_err(|_| ApiError::internal("too long"))?;
    let chunk_bytes = u8::try_from(content.len()).ok().filter(|bytes| *bytes < 0x80);
    let chunk_bytes = chunk_bytes.ok_or_else(|| ApiError::internal("too long"))?;
    Ok([
        HEAD,
        &[0x31, 0x82],
        &set_bytes.to_be_bytes(),
        &infos,
        CONTENT_HEAD,
        iv.as_ref(),
        CHUNKS,
        &[chunk_bytes],
        &content,
        TAIL,
    ]
    .concat())
}

#[cfg(test)]
mod tests;
