//! `CiphertextBlob`. AWS does not publish its format; this is our own:
//! `"DKM1" | key id 16 | nonce 12 | AES-256-GCM ciphertext and tag`, with everything before the
//! ciphertext and the encryption context as associated data.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;

use crate::error::ApiError;
use crate::keys::{KeyId, Material};

const MAGIC: &[u8; 4] = b"DKM1";
const HEADER_BYTES: usize = MAGIC.len() + 16;

/// An encryption context.
pub(crate) type Context = BTreeMap<String, String>;

/// Wraps `plaintext`.
pub(crate) fn wrap(
    key_id: KeyId,
    material: &Material,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>, ApiError> {
    let broken = |_| ApiError::internal("AES-256-GCM failed");
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(broken)?;
    let mut blob = [MAGIC.as_slice(), &key_id.0].concat();
    let aad = Aad::from(associated_data(&blob, context));
    let mut sealed = plaintext.to_vec();
    let nonce_value = Nonce::assume_unique_for_key(nonce);
    key(material)?.seal_in_place_append_tag(nonce_value, aad, &mut sealed).map_err(broken)?;
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// Which key wrapped this blob.
pub(crate) fn key_id(blob: &[u8]) -> Result<KeyId, ApiError> {
    let id = blob.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk());
    id.map(|id| KeyId(*id)).ok_or_else(invalid)
}

/// Unwraps a blob.
pub(crate) fn unwrap(
    material: &Material,
    context: &Context,
    blob: &[u8],
) -> Result<Vec<u8>, ApiError> {
    let (header, rest) = blob.split_at_checked(HEADER_BYTES).ok_or_else(invalid)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(invalid)?;
    let aad = Aad::from(associated_data(header, context));
    let mut plaintext = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key(material)?.open_in_place(nonce, aad, &mut plaintext);
    let length = opened.map_err(|_| invalid())?.len();
    plaintext.truncate(length);
    Ok(plaintext)
}

fn key(material: &Material) -> Result<LessSafeKey, ApiError> {
    let key = UnboundKey::new(&AES_256_GCM, &material.0);
    Ok(LessSafeKey::new(key.map_err(|_| ApiError::internal("AES-256-GCM key"))?))
}

/// Every text with its length before it, so that no two contexts give the same bytes.
fn associated_data(header: &[u8], context: &Context) -> Vec<u8> {
    let mut data = header.to_vec();
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        data.extend_from_slice(&(text.len() as u64).to_be_bytes());
        data.extend_from_slice(text.as_bytes());
    }
    data
}

fn invalid() -> ApiError {
    ApiError::new("InvalidCiphertextException", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> Context {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_blob_opens_under_its_key_and_context_alone() {
        let material = Material([7; 32]);
        let right = context(&[("app", "a"), ("keyspace", "k")]);
        let blob = wrap(KeyId([1; 16]), &material, &right, b"dek").unwrap();
        assert_eq!(key_id(&blob).unwrap(), KeyId([1; 16]));
        assert_eq!(unwrap(&material, &right, &blob).unwrap(), b"dek");
        for wrong in [
            context(&[]),
            context(&[("app", "a")]),
            context(&[("app", "b"), ("keyspace", "k")]),
            context(&[("app", "ak"), ("keyspace", "")]),
        ] {
            let error = unwrap(&material, &wrong, &blob).unwrap_err();
            assert_eq!(error.code, "InvalidCiphertextException", "{wrong:?}");
        }
        assert!(unwrap(&Material([8; 32]), &right, &blob).is_err());
        for at in 0..blob.len() {
            let mut broken = blob.clone();
            broken[at] ^= 1;
            assert!(unwrap(&material, &right, &broken).is_err(), "byte {at}");
            assert!(unwrap(&material, &right, &blob[..at]).is_err(), "cut at {at}");
        }
    }
}
