//! Requests, as the KMS API model names their fields. A field that is not known here is refused:
//! this server must not ignore what a test relies on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::blob::Context;
use crate::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Recipient {
    pub(super) attestation_document: String,
    pub(super) key_encryption_algorithm: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct GenerateDataKey {
    pub(super) key_id: String,
    pub(super) key_spec: String,
    #[serde(default)]
    pub(super) encryption_context: Context,
    pub(super) recipient: Option<Recipient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Decrypt {
    pub(super) ciphertext_blob: String,
    pub(super) key_id: Option<String>,
    pub(super) encryption_algorithm: Option<String>,
    #[serde(default)]
    pub(super) encryption_context: Context,
    pub(super) recipient: Option<Recipient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Encrypt {
    pub(super) key_id: String,
    pub(super) plaintext: String,
    pub(super) encryption_algorithm: Option<String>,
    #[serde(default)]
    pub(super) encryption_context: Context,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct AboutKey {
    pub(super) key_id: String,
    /// GetKeyPolicy; "default" is the only name.
    pub(super) policy_name: Option<String>,
    /// ListGrants; 1 to 100.
    pub(super) limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct PutKeyPolicy {
    pub(super) key_id: String,
    pub(super) policy: String,
    pub(super) policy_name: Option<String>,
}

/// Decodes a field.
pub(super) fn base64(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    STANDARD.decode(text).map_err(|_| ApiError::validation(format!("{field} is not base64")))
}

/// Refuses every algorithm but the one of symmetric keys.
pub(super) fn check_algorithm(name: Option<&str>) -> Result<(), ApiError> {
    match name {
        None | Some("SYMMETRIC_DEFAULT") => Ok(()),
        Some(_) => Err(ApiError::validation("EncryptionAlgorithm: only SYMMETRIC_DEFAULT")),
    }
}

/// Refuses every policy but the one that keys have.
pub(super) fn check_policy_name(name: Option<&str>) -> Result<(), ApiError> {
    match name {
        None | Some("default") => Ok(()),
        Some(_) => Err(ApiError::new("NotFoundException", "No such policy exists")),
    }
}
