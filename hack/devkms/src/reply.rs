//! Answers, and the ways in which their bodies are made wrong.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::attested::Attested;
use crate::cms::{Recipient, envelope};
use crate::error::ApiError;
use crate::fault::FaultMode;
use crate::{ACCOUNT, KNOWN_DEK, REGION};

/// Bytes that [`FaultMode::Truncated`] takes from an envelope.
const CUT_BYTES: usize = 16;
/// Bytes of [`FaultMode::HugeAnswer`].
const HUGE_BYTES: usize = 64 * 1024;

/// An answer with status 200.
#[derive(Debug)]
pub(crate) struct Reply(Option<Value>);

impl Reply {
    /// With these members.
    pub(crate) fn new(members: Value) -> Self {
        Self(Some(members))
    }

    /// Without a body.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// Adds the plaintext: encrypted to the recipient if there is one, else in clear.
    pub(crate) fn with_plaintext(
        mut self,
        fault: FaultMode,
        attested: Option<Attested>,
        plaintext: &[u8],
    ) -> Result<Self, ApiError> {
        let Some(Attested { recipient, .. }) = attested else {
            self.insert("Plaintext", encode(plaintext));
            return Ok(self);
        };
        if matches!(fault, FaultMode::PlaintextLeak | FaultMode::PlaintextOnly) {
            self.insert("Plaintext", encode(plaintext));
        }
        if fault != FaultMode::PlaintextOnly {
            let envelope = faulty_envelope(fault, recipient, plaintext)?;
            self.insert("CiphertextForRecipient", encode(&envelope));
        }
        Ok(self)
    }

    /// The body.
    pub(crate) fn into_body(mut self, fault: FaultMode) -> Vec<u8> {
        match fault {
            FaultMode::WrongKeyArn => {
                let arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{}", "0".repeat(8));
                self.insert("KeyId", arn);
            }
            FaultMode::BadJson => return b"{\"KeyId\": ".to_vec(),
            FaultMode::HugeAnswer => self.insert("Padding", "x".repeat(HUGE_BYTES)),
            _ => {}
        }
        let Some(members) = self.0 else { return Vec::new() };
        let text = members.to_string();
        match (fault, &members["KeyId"]) {
            (FaultMode::DuplicateJsonKey, Value::String(_)) => {
                let other = json!({ "KeyId": "another" }).to_string();
                format!("{},{}", other.trim_end_matches('}'), text.trim_start_matches('{'))
            }
            _ => text,
        }
        .into_bytes()
    }

    fn insert(&mut self, name: &str, value: String) {
        if let Some(members) = self.0.as_mut().and_then(Value::as_object_mut) {
            members.insert(name.to_owned(), Value::String(value));
        }
    }
}

fn faulty_envelope(
    fault: FaultMode,
    recipient: Recipient,
    plaintext: &[u8],
) -> Result<Vec<u8>, ApiError> {
    match fault {
        FaultMode::ForgedEnvelope | FaultMode::ForgedGeneration => {
            envelope(&[&recipient], &KNOWN_DEK)
        }
        FaultMode::TwoRecipients => envelope(&[&recipient, &attacker()?], plaintext),
        FaultMode::WrongSki => envelope(&[&recipient.misnamed()], plaintext),
        FaultMode::Truncated => {
            let mut bytes = envelope(&[&recipient], plaintext)?;
            bytes.truncate(bytes.len().saturating_sub(CUT_BYTES));
            Ok(bytes)
        }
        _ => envelope(&[&recipient], plaintext),
    }
}

/// A recipient that has no business in the answer.
fn attacker() -> Result<Recipient, ApiError> {
    let broken = |_| ApiError::internal("RSA key generation failed");
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(broken)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(broken)?;
    Recipient::new(spki.as_ref())
}

/// Base64, as all binary members.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
