//! Bounds and forms of every input. What is wrong here is the caller's mistake:
//! `INVALID_ARGUMENT`.

use sigil_enclave_protocol::bounds::{
    AMZ_HEADER_BYTES_MAX, ATTEST_NONCE_BYTES, BLOB_BYTES_MAX, CHALLENGE_BYTES_MAX,
    DOCUMENT_BYTES_MAX, KEY_ARN_BYTES_MAX, WRAPPED_DEK_BYTES_MAX,
};
use sigil_enclave_protocol::v1::unlock_begin_request::What as Asked;
use sigil_enclave_protocol::v1::{
    CreateRequest, ErrorCode, UnlockAuthorizeRequest, UnlockBeginRequest,
};

use super::batch::Item;
use crate::keys::KeyName;
use crate::kms_exchange::SignatureHeaders;
use crate::names::Keyspace;
use crate::unlock::{DekRow, UnlockId, What};

const BAD: ErrorCode = ErrorCode::InvalidArgument;

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ErrorCode> {
    bytes.try_into().map_err(|_| BAD)
}

fn ensure(condition: bool) -> Result<(), ErrorCode> {
    if condition { Ok(()) } else { Err(BAD) }
}

fn keyspace(text: &str) -> Result<Keyspace, ErrorCode> {
    Keyspace::parse(text).map_err(|_| BAD)
}

/// Keyspace and key id.
pub fn name(keyspace_text: &str, key_id: &[u8]) -> Result<KeyName, ErrorCode> {
    Ok(KeyName { keyspace: keyspace(keyspace_text)?, key_id: array(key_id)? })
}

/// A blob, or none if it is empty.
pub fn blob(bytes: &[u8]) -> Result<Option<&[u8]>, ErrorCode> {
    ensure(bytes.len() <= BLOB_BYTES_MAX)?;
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Checks the fields of an item of a batch. `known` is the last keyspace of the batch that was
/// good: all items with it are spared the check. An authorization is reserved and refused.
pub(super) fn item<'a>(
    [name, key_id, digest, blob_bytes, authorization]: [&'a [u8]; 5],
    known: &mut Option<(&'a [u8], Keyspace)>,
) -> Result<Item, ErrorCode> {
    ensure(authorization.is_empty())?;
    let (_, keyspace) = match known {
        Some(known) if known.0 == name => *known,
        _ => *known.insert((name, keyspace(std::str::from_utf8(name).map_err(|_| BAD)?)?)),
    };
    let name = KeyName { keyspace, key_id: array(key_id)? };
    Ok(Item { name, digest: array(digest)?, blob: blob(blob_bytes)?.map(Box::from) })
}

/// The name of a key to make. A policy is reserved and refused.
pub fn create(request: &CreateRequest) -> Result<KeyName, ErrorCode> {
    ensure(request.policy.is_empty() && request.challenge.len() <= CHALLENGE_BYTES_MAX)?;
    name(&request.keyspace, &request.key_id)
}

/// A verifier's nonce.
pub fn nonce(bytes: &[u8]) -> Result<(), ErrorCode> {
    ensure((1..=CHALLENGE_BYTES_MAX).contains(&bytes.len()))
}

/// The nonce of an attestation.
pub fn attest_nonce(bytes: &[u8]) -> Result<[u8; ATTEST_NONCE_BYTES], ErrorCode> {
    array(bytes)
}

/// What to unlock or generate.
pub fn unlock(request: UnlockBeginRequest) -> Result<What, ErrorCode> {
    match request.what.ok_or(BAD)? {
        Asked::Row(row) => {
            ensure((1..=WRAPPED_DEK_BYTES_MAX).contains(&row.wrapped_dek.len()))?;
            ensure(row.birth_document.len() <= DOCUMENT_BYTES_MAX)?;
            ensure((1..=KEY_ARN_BYTES_MAX).contains(&row.kms_key_arn.len()))?;
            let row = DekRow {
                dek_id: array(&row.dek_id)?,
                keyspace: keyspace(&row.keyspace)?,
                wrapped: row.wrapped_dek.into(),
                birth_document: row.birth_document.into(),
                key_arn: row.kms_key_arn,
            };
            Ok(What::Row { row, current: request.current })
        }
        Asked::Generate(generate) => {
            ensure(!request.current && generate.kms_key_arn.len() <= KEY_ARN_BYTES_MAX)?;
            let keyspace = keyspace(&generate.keyspace)?;
            Ok(What::Generate { keyspace, key_arn: generate.kms_key_arn })
        }
    }
}

/// Which unlock, and the headers that authorize it.
pub fn authorize(
    request: UnlockAuthorizeRequest,
) -> Result<(UnlockId, SignatureHeaders), ErrorCode> {
    let UnlockAuthorizeRequest { unlock_id, amz_date, authorization, security_token } = request;
    for header in [&amz_date, &authorization, &security_token] {
        ensure(header.len() <= AMZ_HEADER_BYTES_MAX)?;
    }
    let headers = SignatureHeaders::new(&amz_date, &authorization, &security_token);
    Ok((array(&unlock_id)?, headers.ok_or(BAD)?))
}
