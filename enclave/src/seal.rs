//! Key blobs, version 1: a private key sealed under a data encryption key. Byte format:
//! `docs/formats.md`, "Key blob, version 1".
//!
//! The header is associated data and is bound into both derived keys, so no byte of it can change.
//! Unknown versions, algorithms, flags and policies are refused, never ignored.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use sigil_attestation::frame::{self, Malformed, Reader};
use sigil_enclave_protocol::bounds::{BLOB_BYTES_MAX, NAME_BYTES_MAX};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::kdf;
use crate::names::Keyspace;
use crate::secret::Secret32;

const MAGIC: &[u8; 4] = b"SGK1";
const VERSION: u8 = 1;
const ALG_SECP256K1: u8 = 1;
const FLAGS: u8 = 0;
const SALT: &[u8] = b"sigil/seal/v1";
const ENCRYPT: &[u8] = b"sigil/seal/v1/encrypt";
const COMMIT: &[u8] = b"sigil/seal/v1/commit";
const COMMITMENT_BYTES: usize = 32;
const CIPHERTEXT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const TAIL_BYTES: usize = COMMITMENT_BYTES + CIPHERTEXT_BYTES + TAG_BYTES;

/// What a blob says about its key, readable without the DEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Deployment that the key belongs to.
    pub app: String,
    /// Keyspace of the key.
    pub keyspace: Keyspace,
    /// DEK that seals the key.
    pub dek_id: [u8; 16],
    /// Identifier of the key.
    pub key_id: [u8; 16],
    /// Compressed public key.
    pub public_key: [u8; 33],
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// PCR0 of the image that made the key.
    pub birth_pcr0: [u8; 48],
}

/// A blob whose form is right. What it says is true only once it is opened.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// What the blob says.
    pub header: Header,
    header_bytes: &'a [u8],
    commitment: &'a [u8],
    ciphertext_and_tag: &'a [u8],
}

/// Why a blob is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// Not a blob of version 1, or longer than the bound.
    Malformed,
    /// The policy is not empty; no other is understood.
    Policy,
    /// Another DEK, or a changed byte.
    NotOpened,
    /// No slot is free for the opened key.
    NoRoom,
}

impl From<Malformed> for SealError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, ALG_SECP256K1, FLAGS]);
        frame::put(&mut out, self.app.as_bytes());
        frame::put(&mut out, self.keyspace.as_str().as_bytes());
        out.extend_from_slice(&self.dek_id);
        out.extend_from_slice(&self.key_id);
        out.extend_from_slice(&self.public_key);
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(&self.birth_pcr0);
        frame::put(&mut out, &[]);
        out
    }

    /// Seals a scalar under a DEK. The caller has checked that the public key is the scalar's.
    ///
    /// # Errors
    /// The cipher refuses, which it does not for inputs of this length.
    pub fn seal(&self, dek: &Secret32, scalar: &Secret32) -> Result<Vec<u8>, SealError> {
        let mut blob = self.encode();
        let keys = Keys::derive(dek, &blob)?;
        let mut text = Zeroizing::new([0; CIPHERTEXT_BYTES]);
        text.copy_from_slice(scalar.expose_secret());
        let tag = keys
            .cipher()?
            .seal_in_place_separate_tag(nonce(), Aad::from(&blob), &mut *text)
            .map_err(|_| SealError::NotOpened)?;
        blob.extend_from_slice(&keys.commitment);
        blob.extend_from_slice(&*text);
        blob.extend_from_slice(tag.as_ref());
        Ok(blob)
    }
}

/// Reads a blob's form and header.
///
/// # Errors
/// [`SealError::Malformed`] or [`SealError::Policy`].
pub fn parse(blob: &[u8]) -> Result<Sealed<'_>, SealError> {
    if blob.len() > BLOB_BYTES_MAX {
        return Err(SealError::Malformed);
    }
    let mut reader = Reader(blob);
    if reader.array()? != *MAGIC || reader.array()? != [VERSION, ALG_SECP256K1, FLAGS] {
        return Err(SealError::Malformed);
    }
    let app = reader.name(NAME_BYTES_MAX)?;
    let keyspace = Keyspace::parse(&reader.name(NAME_BYTES_MAX)?).map_err(|_| Malformed)?;
    let header = Header {
        app,
        keyspace,
        dek_id: reader.array()?,
        key_id: reader.array()?,
        public_key: reader.array()?,
        created_ms: u64::from_be_bytes(reader.array()?),
        birth_pcr0: reader.array()?,
    };
    if !reader.field(BLOB_BYTES_MAX)?.is_empty() {
        return Err(SealError::Policy);
    }
    let header_bytes = blob.get(..blob.len() - reader.0.len()).ok_or(SealError::Malformed)?;
    if reader.0.len() != TAIL_BYTES {
        return Err(SealError::Malformed);
    }
    let (commitment, ciphertext_and_tag) = reader.0.split_at(COMMITMENT_BYTES);
    Ok(Sealed { header, header_bytes, commitment, ciphertext_and_tag })
}

impl Sealed<'_> {
    /// Opens the blob. The caller recomputes the public key and compares it with the header.
    ///
    /// # Errors
    /// [`SealError::NotOpened`] or [`SealError::NoRoom`].
    pub fn open(&self, dek: &Secret32) -> Result<Secret32, SealError> {
        let keys = Keys::derive(dek, self.header_bytes)?;
        if !bool::from(keys.commitment.ct_eq(self.commitment)) {
            return Err(SealError::NotOpened);
        }
        let mut text = Zeroizing::new([0; CIPHERTEXT_BYTES + TAG_BYTES]);
        text.copy_from_slice(self.ciphertext_and_tag);
        let plain = keys
            .cipher()?
            .open_in_place(nonce(), Aad::from(self.header_bytes), &mut *text)
            .map_err(|_| SealError::NotOpened)?;
        let mut scalar = Secret32::zeroed().map_err(|_| SealError::NoRoom)?;
        scalar.expose_secret_mut().copy_from_slice(plain);
        Ok(scalar)
    }
}

/// The two keys of one header under one DEK.
struct Keys {
    encryption: Zeroizing<[u8; 32]>,
    commitment: [u8; COMMITMENT_BYTES],
}

impl Keys {
    fn derive(dek: &Secret32, header: &[u8]) -> Result<Self, SealError> {
        let prk = kdf::extract(SALT, dek.expose_secret());
        let header_hash = digest::digest(&digest::SHA512, header);
        let mut keys = Self { encryption: Zeroizing::new([0; 32]), commitment: [0; 32] };
        for (label, out) in [(ENCRYPT, &mut *keys.encryption), (COMMIT, &mut keys.commitment)] {
            kdf::expand(&prk, &[label, header_hash.as_ref()], out)
                .map_err(|_| SealError::NotOpened)?;
        }
        Ok(keys)
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, &*self.encryption);
        key.map(LessSafeKey::new).map_err(|_| SealError::NotOpened)
    }
}

/// Fixed: one encryption key seals one message, since the header holds the public key.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests;
