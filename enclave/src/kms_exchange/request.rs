//! The exact request: everything but the three signature headers is fixed here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use serde_json::json;
use sigil_enclave_image::pins::KeyspaceRule;
use sigil_enclave_protocol::bounds::AMZ_HEADER_BYTES_MAX;

use super::{Body, ExchangeError};
use crate::dek::DekId;
use crate::names::Keyspace;

/// Of AWS JSON 1.1.
const CONTENT_TYPE_JSON: &str = "application/x-amz-json-1.1";

/// What is asked of KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make a DEK of 32 bytes.
    GenerateDataKey,
    /// Unwrap a DEK.
    Decrypt {
        /// `CiphertextBlob` as KMS made it.
        wrapped: Vec<u8>,
    },
}

/// The DEK that is asked for. Its encryption context is `app`, `keyspace` and `dek_id`, for ever.
#[derive(Clone, Copy, Debug)]
pub struct AskedDek<'a> {
    /// The pinned rule of its keyspace: host, which TLS checks, and region of the signature.
    pub rule: &'a KeyspaceRule,
    /// The rule's KMS key that wraps it.
    pub key_arn: &'a str,
    /// Pinned name of the deployment.
    pub app: &'a str,
    /// Its keyspace.
    pub keyspace: &'a Keyspace,
    /// Its identifier.
    pub dek_id: DekId,
}

/// A request that lacks only its signature headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactRequest {
    /// KMS host name.
    pub host: String,
    /// AWS region of the signature.
    pub region: String,
    /// `x-amz-target`.
    pub target: &'static str,
    /// `content-type`.
    pub content_type: &'static str,
    /// JSON.
    pub body: Vec<u8>,
    /// The KMS key named in the body.
    pub key_arn: String,
}

/// What the sidecar made of the request with its AWS credentials.
pub struct SignatureHeaders {
    amz_date: HeaderValue,
    authorization: HeaderValue,
    security_token: Option<HeaderValue>,
}

impl ExactRequest {
    /// Writes the request. `document` is a fresh attestation document that carries the recipient
    /// key. The bounds of all parts are those of the pins, the store's rows and the NSM.
    pub fn new(asked: &AskedDek<'_>, operation: &Operation, document: &[u8]) -> Self {
        let AskedDek { rule, key_arn, app, keyspace, dek_id } = *asked;
        let dek_id = format!("{:032x}", u128::from_be_bytes(dek_id));
        let context = json!({ "app": app, "dek_id": dek_id, "keyspace": keyspace.as_str() });
        let recipient = json!({
            "AttestationDocument": STANDARD.encode(document),
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        });
        // Members in sorted order: the bytes are the same whether or not a map keeps its order.
        let (action, body) = match operation {
            Operation::GenerateDataKey => (
                "TrentService.GenerateDataKey",
                json!({
                    "EncryptionContext": context,
                    "KeyId": key_arn,
                    "KeySpec": "AES_256",
                    "Recipient": recipient,
                }),
            ),
            Operation::Decrypt { wrapped } => (
                "TrentService.Decrypt",
                json!({
                    "CiphertextBlob": STANDARD.encode(wrapped),
                    "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                    "EncryptionContext": context,
                    "KeyId": key_arn,
                    "Recipient": recipient,
                }),
            ),
        };
        Self {
            host: rule.host.clone(),
            region: rule.region.clone(),
            target: action,
            content_type: CONTENT_TYPE_JSON,
            body: body.to_string().into_bytes(),
            key_arn: key_arn.to_owned(),
        }
    }
}

impl SignatureHeaders {
    /// Takes the three headers; `security_token` is empty when the credentials have none. Nothing
    /// if the date is not `YYYYMMDDTHHMMSSZ`, or another is too long or not printable ASCII.
    pub fn new(amz_date: &str, authorization: &str, security_token: &str) -> Option<Self> {
        let security_token = match security_token {
            "" => None,
            token => Some(header(token)?),
        };
        let amz_date = header(amz_date).filter(|_| is_amz_date(amz_date))?;
        Some(Self { amz_date, authorization: header(authorization)?, security_token })
    }

    pub(super) fn sign(
        &self,
        request: &ExactRequest,
    ) -> Result<http::Request<Body>, ExchangeError> {
        let mut signed = http::Request::post("/")
            .header(HOST, &request.host)
            .header(CONTENT_TYPE, request.content_type)
            .header("x-amz-target", request.target)
            .header("x-amz-date", &self.amz_date)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONNECTION, "close");
        if let Some(token) = &self.security_token {
            signed = signed.header("x-amz-security-token", token);
        }
        let body = Body::new(Bytes::copy_from_slice(&request.body));
        // Fails for a pinned host that is no header value, which is no host name either.
        signed.body(body).map_err(|_| ExchangeError::Tls)
    }
}

impl std::fmt::Debug for SignatureHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignatureHeaders(redacted)")
    }
}

/// Printable ASCII within the bound. Spaces occur in `authorization`, but never at an end.
fn header(text: &str) -> Option<HeaderValue> {
    let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let sound = printable && text.len() <= AMZ_HEADER_BYTES_MAX && !text.trim().is_empty();
    if !sound || text.trim() != text {
        return None;
    }
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_amz_date(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests;
