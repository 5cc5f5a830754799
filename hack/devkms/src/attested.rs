//! The `Recipient` of a request: its attestation document, verified by the production verifier.

use std::collections::BTreeMap;

use sigil_verifier::{Document, TrustRoot, VerifyTime, verify};

use crate::cms::Recipient;
use crate::error::ApiError;

/// Age above which a document is refused. AWS publishes no limit; five minutes is what its users
/// report.
const DOCUMENT_AGE_MS_MAX: u64 = 5 * 60 * 1_000;
/// How far a document may be ahead of this machine's clock.
const DOCUMENT_AHEAD_MS_MAX: u64 = 30 * 1_000;

/// A verified recipient.
#[derive(Debug)]
pub(crate) struct Attested {
    /// The key that answers are encrypted to.
    pub(crate) recipient: Recipient,
    document: Document,
}

impl Attested {
    /// Verifies a document at this machine's time.
    pub(crate) fn verify(bytes: &[u8], root: &TrustRoot, now_ms: u64) -> Result<Self, ApiError> {
        let refused = |why: &dyn std::fmt::Display| {
            ApiError::validation(format!("The attestation document is not valid: {why}"))
        };
        let document =
            verify(bytes, root, VerifyTime::At { now_ms }).map_err(|error| refused(&error))?;
        let made_ms = document.timestamp_ms;
        if made_ms.saturating_add(DOCUMENT_AGE_MS_MAX) < now_ms {
            return Err(refused(&"it is older than five minutes"));
        }
        if made_ms > now_ms.saturating_add(DOCUMENT_AHEAD_MS_MAX) {
            return Err(refused(&"it is from the future"));
        }
        let public_key = document.public_key.as_deref();
        let recipient =
            Recipient::new(public_key.ok_or_else(|| refused(&"it has no public key"))?)?;
        Ok(Self { recipient, document })
    }

    /// The condition keys of a key policy that it supplies.
    pub(crate) fn condition_keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        for (index, value) in self.document.pcrs.iter() {
            let hex = const_hex::encode(value);
            if index == 0 {
                keys.insert("kms:RecipientAttestation:ImageSha384".to_owned(), hex.clone());
            }
            keys.insert(format!("kms:RecipientAttestation:PCR{index}"), hex);
        }
        keys
    }
}
