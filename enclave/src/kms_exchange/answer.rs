//! What KMS answered: errors by class and closed name, and the DEK of a good answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::response::Parts;
use serde_json::Value;
use sigil_enclave_protocol::bounds::WRAPPED_DEK_BYTES_MAX;

use super::recipient::{EnvelopeError, RecipientKey};
use super::request::Operation;
use crate::secret::Secret32;

mod members;

use members::Members;

/// Codes that are reported by name, and their class. Any other is "Other".
const CODES: [(&str, AnswerClass); 24] = {
    use AnswerClass::{Denied, Error, Throttled};
    [
        ("AccessDeniedException", Denied),
        ("DisabledException", Denied),
        ("IncorrectKeyException", Denied),
        ("InvalidCiphertextException", Denied),
        ("InvalidGrantTokenException", Denied),
        ("InvalidKeyUsageException", Denied),
        ("KMSInvalidStateException", Denied),
        ("NotFoundException", Denied),
        ("UnrecognizedClientException", Denied),
        ("LimitExceededException", Throttled),
        ("RequestLimitExceeded", Throttled),
        ("ThrottlingException", Throttled),
        ("TooManyRequestsException", Throttled),
        // The rest may pass: a new document, new credentials, a corrected clock, a sound KMS.
        ("DependencyTimeoutException", Error),
        ("ExpiredTokenException", Error),
        ("IncompleteSignatureException", Error),
        ("InternalFailure", Error),
        ("InvalidSignatureException", Error),
        ("KMSInternalException", Error),
        ("KeyUnavailableException", Error),
        ("MissingAuthenticationTokenException", Error),
        ("RequestExpired", Error),
        ("ServiceUnavailableException", Error),
        ("ValidationException", Error),
    ]
};
const OTHER: &str = "Other";
const NO_ROOM: &str = "too many secrets are in memory";

/// An answer as it came, not yet judged.
pub struct Answer {
    status: StatusCode,
    /// `x-amzn-errortype`.
    error_type: Option<String>,
    body: Bytes,
}

/// A DEK that KMS gave to this enclave.
#[derive(Debug)]
pub struct OpenedDek {
    /// The DEK.
    pub dek: Secret32,
    /// `CiphertextBlob` of GenerateDataKey; nothing for Decrypt.
    pub wrapped: Option<Vec<u8>>,
}

/// What to do about an answer that gives no DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerClass {
    /// KMS says no and will go on doing so until somebody changes policy, key or credentials.
    Denied,
    /// KMS has too much to do.
    Throttled,
    /// An error that may pass.
    Error,
    /// Not an answer that a sound KMS gives. No part of it is used.
    Refused,
    /// It is good, and too many secrets are in memory.
    NoRoom,
}

/// An answer that gives no DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerError {
    /// What to do about it.
    pub class: AnswerClass,
    /// HTTP status.
    pub http_status: u16,
    /// AWS's name of the error, of a closed list, else "Other"; empty when there is no error.
    pub aws_error_code: &'static str,
    /// Which check of a good status failed, in fixed words; empty for any other status.
    pub reason: &'static str,
}

impl Answer {
    /// An answer of this head and body.
    pub fn new(head: &Parts, body: Bytes) -> Self {
        let error_type = head.headers.get("x-amzn-errortype");
        let error_type = error_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { status: head.status, error_type, body }
    }

    /// HTTP status.
    pub fn http_status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Judges the answer to `operation` and opens its envelope. `key_arn` is the pinned key.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn open(
        self,
        recipient: &RecipientKey,
        operation: &Operation,
        key_arn: &str,
    ) -> Result<OpenedDek, AnswerError> {
        if self.status != StatusCode::OK {
            return Err(self.error());
        }
        self.dek(recipient, operation, key_arn).map_err(|reason| AnswerError {
            class: if reason == NO_ROOM { AnswerClass::NoRoom } else { AnswerClass::Refused },
            http_status: self.http_status(),
            aws_error_code: "",
            reason,
        })
    }

    fn error(&self) -> AnswerError {
        let in_body = serde_json::from_slice::<Members>(&self.body).ok();
        let code =
            in_body.as_ref().and_then(|members| members.get("__type")).and_then(Value::as_str);
        let code = code.or(self.error_type.as_deref()).map_or("", bare_code);
        let known = CODES.into_iter().find(|(name, _)| *name == code);
        let class = match (known, self.status) {
            (Some((_, class)), _) => class,
            (None, StatusCode::TOO_MANY_REQUESTS) => AnswerClass::Throttled,
            (None, status) if status.is_client_error() || status.is_server_error() => {
                AnswerClass::Error
            }
            (None, _) => AnswerClass::Refused,
        };
        let aws_error_code = known.map_or(OTHER, |(name, _)| name);
        AnswerError { class, http_status: self.http_status(), aws_error_code, reason: "" }
    }

    fn dek(
        &self,
        recipient: &RecipientKey,
        operation: &Operation,
        key_arn: &str,
    ) -> Result<OpenedDek, &'static str> {
        let members = serde_json::from_slice::<Members>(&self.body);
        let members = members.map_err(|_| "not a JSON object with each member once")?;
        match members.get("Plaintext") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(_) => return Err("Plaintext is present"),
        }
        if members.get("KeyId").and_then(Value::as_str) != Some(key_arn) {
            return Err("KeyId is not the pinned key");
        }
        let envelope = members.get("CiphertextForRecipient").and_then(Value::as_str).unwrap_or("");
        if envelope.is_empty() {
            return Err("CiphertextForRecipient is absent");
        }
        let envelope = STANDARD.decode(envelope);
        let envelope = envelope.map_err(|_| "CiphertextForRecipient is not base64")?;
        let wrapped = match operation {
            Operation::GenerateDataKey => Some(wrapped(&members)?),
            Operation::Decrypt { .. } => None,
        };
        let dek = recipient.open(&envelope).map_err(|error| match error {
            EnvelopeError::Malformed => "CiphertextForRecipient is malformed",
            EnvelopeError::OtherRecipient => "CiphertextForRecipient is for another key",
            EnvelopeError::Closed => "CiphertextForRecipient does not open",
            EnvelopeError::NoRoom => NO_ROOM,
        })?;
        Ok(OpenedDek { dek, wrapped })
    }
}

fn wrapped(members: &Members) -> Result<Vec<u8>, &'static str> {
    let text = members.get("CiphertextBlob").and_then(Value::as_str);
    let blob = STANDARD.decode(text.unwrap_or("")).map_err(|_| "CiphertextBlob is not base64")?;
    if blob.is_empty() || blob.len() > WRAPPED_DEK_BYTES_MAX {
        return Err("CiphertextBlob is absent or too long");
    }
    Ok(blob)
}

/// `com.amazonaws.kms#Name:http://...` -> `Name`.
fn bare_code(text: &str) -> &str {
    let after = text.rsplit_once('#').map_or(text, |(_, name)| name);
    after.split_once(':').map_or(after, |(name, _)| name)
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, body redacted)", self.status)
    }
}

#[cfg(test)]
mod tests;
