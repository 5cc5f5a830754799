//! The exact request: everything but the three signature headers is fixed here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use serde_json::{Value, json};
use sigil_enclave_protocol::bounds::AMZ_HEADER_BYTES_MAX;

use super::{Body, ExchangeError};

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

/// The encryption context of a DEK, fixed for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionContext {
    /// Pinned name of the deployment.
    pub app: String,
    /// The DEK's keyspace.
    pub keyspace: String,
    /// The DEK.
    pub dek_id: [u8; 16],
}

/// Where the request goes, from the pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// KMS host name, which TLS checks.
    pub host: String,
    /// AWS region of the signature.
    pub region: String,
    /// The KMS key.
    pub key_arn: String,
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

/// Why signature headers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not `YYYYMMDDTHHMMSSZ`.
    #[error("amz_date: not of the form YYYYMMDDTHHMMSSZ")]
    AmzDate,
    /// Empty, too long, or not printable ASCII.
    #[error("authorization: empty, longer than 4096 bytes, or not printable ASCII")]
    Authorization,
    /// Too long, or not printable ASCII.
    #[error("security_token: longer than 4096 bytes, or not printable ASCII")]
    SecurityToken,
}

impl ExactRequest {
    /// Writes the request. `document` is a fresh attestation document that carries the recipient
    /// key. The bounds of all parts are those of the pins, the store's rows and the NSM.
    pub fn new(
        target: &Target,
        context: &EncryptionContext,
        operation: &Operation,
        document: &[u8],
    ) -> Self {
        let Target { host, region, key_arn } = target;
        let context = context.to_json();
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
            host: host.clone(),
            region: region.clone(),
            target: action,
            content_type: CONTENT_TYPE_JSON,
            body: body.to_string().into_bytes(),
            key_arn: key_arn.clone(),
        }
    }
}

impl EncryptionContext {
    fn to_json(&self) -> Value {
        let Self { app, keyspace, dek_id } = self;
        let dek_id = format!("{:032x}", u128::from_be_bytes(*dek_id));
        json!({ "app": app, "dek_id": dek_id, "keyspace": keyspace })
    }
}

impl SignatureHeaders {
    /// Checks the three headers; `security_token` is empty when the credentials have none.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn new(
        amz_date: &str,
        authorization: &str,
        security_token: &str,
    ) -> Result<Self, HeaderError> {
        if !is_amz_date(amz_date) {
            return Err(HeaderError::AmzDate);
        }
        let security_token = match security_token {
            "" => None,
            token => Some(header(token).ok_or(HeaderError::SecurityToken)?),
        };
        Ok(Self {
            amz_date: header(amz_date).ok_or(HeaderError::AmzDate)?,
            authorization: header(authorization).ok_or(HeaderError::Authorization)?,
            security_token,
        })
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
