//! The HTTP face's requests and answers as JSON. gRPC has its own forms of the same.

use bytes::Bytes;
use serde_json::{Value, json};

use super::json::{Fields, decode_digest, decode_hex, read_list};
use crate::app::{
    Birth, CreateRequest, Created, KeyInfo, KeyPage, SignRequest, Signed, checked_batch_size,
};
use crate::error::{Error, TYPE_PREFIX};

const CREATE_FIELDS: &[&str] = &["keyspace", "idempotencyKey", "challenge", "policy", "tenantId"];
const SIGN_FIELDS: &[&str] = &["keyId", "digest", "der", "authorization", "tenantId"];
/// Room for an answer of `sign`, as JSON and with its DER form.
const SIGNED_BYTES: usize = 512;
/// Bytes of a verifier's nonce (`enclave/protocol`, `Prove`).
const NONCE_BYTES_MAX: usize = sigil_enclave_protocol::bounds::CHALLENGE_BYTES_MAX;

/// Over HTTP a keyspace that is left out is the default one; an empty one is somebody's mistake.
pub(super) fn refuse_empty_keyspace(keyspace: Option<&str>) -> Result<(), Error> {
    match keyspace {
        Some("") => {
            Err(Error::invalid("keyspace", "keyspace is empty; leave it out for `default`"))
        }
        _ => Ok(()),
    }
}

/// Body of `POST /create`.
pub(super) fn read_create(body: &[u8]) -> Result<CreateRequest, Error> {
    let mut fields = Fields::read(body, CREATE_FIELDS)?;
    let keyspace = fields.text("keyspace")?;
    refuse_empty_keyspace(keyspace.as_deref())?;
    let idempotency_key = fields.text("idempotencyKey")?;
    if idempotency_key.as_deref() == Some("") {
        return Err(Error::invalid("idempotencyKey", "idempotencyKey is empty; leave it out"));
    }
    let challenge = fields.hex("challenge")?;
    let policy = fields.hex("policy")?;
    let tenant_id = fields.text("tenantId")?;
    CreateRequest::checked(
        keyspace.unwrap_or_default().into_owned(),
        idempotency_key.unwrap_or_default().into_owned(),
        challenge.into(),
        &policy,
        &tenant_id.unwrap_or_default(),
    )
}

/// Body of `POST /sign`.
pub(super) fn read_sign(body: &[u8]) -> Result<SignRequest, Error> {
    to_sign(Fields::read(body, SIGN_FIELDS)?)
}

/// Body of `POST /sign/batch`. What is wrong with one request is that request's result.
pub(super) fn read_batch(body: &[u8]) -> Result<Vec<Result<SignRequest, Error>>, Error> {
    let requests = read_list(body, "requests", SIGN_FIELDS)?;
    checked_batch_size(requests.len())?;
    Ok(requests.into_iter().map(|fields| fields.and_then(to_sign)).collect())
}

fn to_sign(mut fields: Fields<'_>) -> Result<SignRequest, Error> {
    let key_id = fields.required("keyId")?;
    let digest = fields.required("digest")?;
    let der = fields.flag("der")?;
    let authorization = fields.hex("authorization")?;
    let tenant_id = fields.text("tenantId")?.unwrap_or_default();
    let digest = decode_digest(&digest)?;
    SignRequest::checked(&key_id, &digest, der, &authorization, &tenant_id)
}

/// Query parameter `nonce`.
pub(super) fn read_nonce(text: &str) -> Result<Bytes, Error> {
    let nonce = decode_hex("nonce", text)?;
    if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX {
        let detail = format!("nonce must be 1 to {NONCE_BYTES_MAX} bytes in hex");
        return Err(Error::invalid("nonce", detail));
    }
    Ok(nonce.into())
}

/// Answer of `POST /create`.
pub(super) fn created(created: &Created) -> Value {
    json!({
        "keyId": created.key_id.to_string(),
        "keyspace": created.keyspace,
        "publicKey": const_hex::encode(created.public_key),
        "birth": statement(&created.birth),
    })
}

/// A statement with its document.
pub(super) fn statement(birth: &Birth) -> Value {
    use base64::Engine;
    json!({
        "statement": const_hex::encode(&birth.statement),
        "signature": const_hex::encode(&birth.signature),
        "documentHash": const_hex::encode(birth.document_hash),
        "document": base64::engine::general_purpose::STANDARD.encode(&birth.document),
    })
}

/// Answer of `POST /sign`, written by hand: its parts are hex and small numbers, so nothing needs
/// escaping, and this is the hot path.
pub(super) fn signed(signed: &Signed) -> Bytes {
    let mut out = String::with_capacity(SIGNED_BYTES);
    write_signed(&mut out, signed);
    out.into()
}

/// Answer of `POST /sign/batch`: what each request has come to, in their order.
pub(super) fn signed_batch(results: &[Result<Signed, Error>]) -> Bytes {
    let mut out = String::with_capacity(results.len() * SIGNED_BYTES);
    out.push_str("{\"results\":[");
    for (index, result) in results.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        match result {
            Ok(signed) => {
                out.push_str("{\"signed\":");
                write_signed(&mut out, signed);
            }
            Err(error) => {
                out.push_str("{\"error\":");
                out.push_str(&item_error(error).to_string());
            }
        }
        out.push('}');
    }
    out.push_str("]}");
    out.into()
}

/// Why one of several requests failed: of a problem's members those that differ between them.
fn item_error(error: &Error) -> Value {
    let mut out = json!({ "code": error.code.row().name, "detail": error.detail });
    add_hints(&mut out, error);
    out
}

fn write_signed(out: &mut String, signed: &Signed) {
    out.push_str("{\"keyId\":\"");
    out.push_str(&signed.key_id.to_string());
    out.push_str("\",\"publicKey\":\"");
    out.push_str(const_hex::Buffer::<33>::new().format(&signed.public_key));
    out.push_str("\",\"signature\":\"");
    out.push_str(const_hex::Buffer::<64>::new().format(&signed.signature));
    out.push_str("\",\"recoveryId\":");
    out.push(char::from(b'0' + (signed.recovery_id & 3)));
    if let Some(der) = &signed.der {
        out.push_str(",\"der\":\"");
        out.push_str(&const_hex::encode(der));
        out.push('"');
    }
    out.push('}');
}

/// One key.
pub(super) fn key(key: &KeyInfo) -> Value {
    json!({
        "keyId": key.key_id.to_string(),
        "keyspace": key.keyspace,
        "publicKey": const_hex::encode(key.public_key),
        "createdMs": key.created_ms,
    })
}

/// One page of keys.
pub(super) fn page(page: &KeyPage) -> Value {
    let mut out = json!({ "keys": page.keys.iter().map(key).collect::<Vec<_>>() });
    if let Some(next) = page.next {
        out["nextPage"] = next.to_string().into();
    }
    out
}

/// Problem details of RFC 9457.
pub(super) fn problem(error: &Error, request_id: &str) -> Value {
    let row = error.code.row();
    let mut out = json!({
        "type": format!("{TYPE_PREFIX}{}", row.slug),
        "title": row.title,
        "status": error.status(),
        "code": row.name,
        "detail": error.detail,
        "requestId": request_id,
    });
    add_hints(&mut out, error);
    out
}

fn add_hints(out: &mut Value, error: &Error) {
    if let Some(field) = &error.field {
        out["field"] = field.as_ref().into();
    }
    if let Some(hint) = error.retry_after_ms {
        out["retryAfterMs"] = hint.into();
    }
    if let Some(id) = &error.unlock_request_id {
        out["unlockRequestId"] = id.as_str().into();
    }
}

#[cfg(test)]
mod faces;
#[cfg(test)]
mod tests;
