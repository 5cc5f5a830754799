//! Requests and answers as both faces mean them: checked values, no text forms.

use bytes::Bytes;
use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::bounds::{
    AUTHORIZATION_BYTES_MAX, CHALLENGE_BYTES_MAX, POLICY_BYTES_MAX,
};

use crate::config::keyspace_name_is_valid;
use crate::error::{Code, Error};

/// Bytes of an idempotency key: a UUID with a prefix fits many times.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Digests of one batch: eight messages to an enclave, about 4 ms of one of its workers. As JSON they
/// fit the default bound of a body.
pub(crate) const SIGN_BATCH_ITEMS_MAX: usize = 256;
/// What an absent keyspace means.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";

/// A key to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateRequest {
    pub(crate) keyspace: String,
    pub(crate) idempotency_key: Option<String>,
    /// At most 64 bytes.
    pub(crate) challenge: Bytes,
}

/// 32 bytes to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignRequest {
    pub(crate) key_id: KeyId,
    pub(crate) digest: [u8; 32],
    pub(crate) der: bool,
}

/// A statement of the enclave, with the document that binds its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) statement: Bytes,
    pub(crate) signature: Bytes,
    pub(crate) document_hash: [u8; 32],
    pub(crate) document: Bytes,
}

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) key_id: KeyId,
    pub(crate) keyspace: String,
    pub(crate) public_key: [u8; 33],
    pub(crate) birth: Birth,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) key_id: KeyId,
    pub(crate) public_key: [u8; 33],
    pub(crate) signature: [u8; 64],
    pub(crate) recovery_id: u8,
    pub(crate) der: Option<Vec<u8>>,
}

/// What is known of a key without the enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyInfo {
    pub(crate) key_id: KeyId,
    pub(crate) keyspace: String,
    pub(crate) public_key: [u8; 33],
    pub(crate) created_ms: u64,
}

/// One page of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPage {
    pub(crate) keys: Vec<KeyInfo>,
    pub(crate) next: Option<KeyId>,
}

// === impl CreateRequest ===

impl CreateRequest {
    /// Checks what both faces share. Empty text means absent, as it does in gRPC.
    pub(crate) fn checked(
        keyspace: String,
        idempotency_key: String,
        challenge: Bytes,
        policy: &[u8],
        tenant_id: &str,
    ) -> Result<Self, Error> {
        refuse_tenant(tenant_id)?;
        if policy.len() > POLICY_BYTES_MAX {
            return Err(Error::invalid(
                "policy",
                format!("policy is longer than {POLICY_BYTES_MAX} bytes"),
            ));
        }
        if !policy.is_empty() {
            return Err(Error::invalid("policy", "policies are reserved; leave policy empty"));
        }
        if challenge.len() > CHALLENGE_BYTES_MAX {
            return Err(Error::invalid(
                "challenge",
                format!("challenge is longer than {CHALLENGE_BYTES_MAX} bytes"),
            ));
        }
        if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            return Err(Error::invalid(
                "idempotencyKey",
                format!("idempotencyKey is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes"),
            ));
        }
        let keyspace = checked_keyspace(keyspace)?;
        let idempotency_key = (!idempotency_key.is_empty()).then_some(idempotency_key);
        Ok(Self { keyspace, idempotency_key, challenge })
    }
}

// === impl SignRequest ===

impl SignRequest {
    /// Checks what both faces share.
    pub(crate) fn checked(
        key_id: &str,
        digest: &[u8],
        der: bool,
        authorization: &[u8],
        tenant_id: &str,
    ) -> Result<Self, Error> {
        refuse_tenant(tenant_id)?;
        if authorization.len() > AUTHORIZATION_BYTES_MAX {
            return Err(Error::invalid(
                "authorization",
                format!("authorization is longer than {AUTHORIZATION_BYTES_MAX} bytes"),
            ));
        }
        if !authorization.is_empty() {
            return Err(Error::invalid(
                "authorization",
                "authorizations are reserved; leave authorization empty",
            ));
        }
        let key_id = checked_key_id(key_id)?;
        let digest = digest.try_into().map_err(|_| {
            Error::invalid("digest", format!("digest is {} bytes long, not 32", digest.len()))
        })?;
        Ok(Self { key_id, digest, der })
    }
}

/// A batch has requests, and not too many.
pub(crate) fn checked_batch_size(items: usize) -> Result<(), Error> {
    if (1..=SIGN_BATCH_ITEMS_MAX).contains(&items) {
        return Ok(());
    }
    let detail = format!("a batch has 1 to {SIGN_BATCH_ITEMS_MAX} requests, not {items}");
    Err(Error::invalid("requests", detail))
}

/// A key id in its one spelling.
pub(crate) fn checked_key_id(text: &str) -> Result<KeyId, Error> {
    text.parse().map_err(|_| {
        Error::invalid(
            "keyId",
            "keyId is not a key id in its canonical spelling: k1 and 26 characters of a-z and 2-7",
        )
    })
}

/// A keyspace name; empty means the default one.
pub(crate) fn checked_keyspace(keyspace: String) -> Result<String, Error> {
    if keyspace.is_empty() {
        return Ok(DEFAULT_KEYSPACE.to_owned());
    }
    if !keyspace_name_is_valid(&keyspace) {
        return Err(Error::invalid(
            "keyspace",
            "keyspace must be 1-63 of a-z 0-9 - . _, the first alphanumeric",
        ));
    }
    Ok(keyspace)
}

/// Tenants are reserved.
pub(crate) fn refuse_tenant(tenant_id: &str) -> Result<(), Error> {
    if tenant_id.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid("tenantId", "tenants are reserved; leave tenantId out"))
    }
}

/// No key has this id.
pub(crate) fn key_not_found(key_id: KeyId) -> Error {
    let error = Error::new(Code::KeyNotFound, format!("no key has the id {key_id}"));
    Error { field: Some("keyId".into()), ..error }
}
