//! Birth statements are verified here before a key is acknowledged, with the code that applications
//! and `ctl verify-key` use offline.

use std::sync::Arc;

use sigil_attestation::{
    Document, Measurement, PcrAllowList, SignedStatement, Statement, StatementError, StatementKind,
    verify_statement,
};
use sigil_enclave_protocol::KeyId;

use super::Trust;
use crate::app::Birth;
use crate::store::sha256;

/// Verifies birth statements against the member's trust.
pub(crate) struct BirthVerifier {
    trust: Arc<Trust>,
}

/// What a statement must say.
pub(crate) struct Expected<'a> {
    pub(crate) keyspace: &'a str,
    pub(crate) key_id: KeyId,
    pub(crate) public_key: &'a [u8; 33],
    pub(crate) challenge: &'a [u8],
    /// The key was made earlier, perhaps in an image that is no longer on the list.
    pub(crate) earlier: bool,
}

/// Why a statement is not one for this key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BirthError {
    #[error("the signature is not 64 bytes long")]
    Length,
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error("the document has another hash")]
    Hash,
    #[error("it is about another key, keyspace, policy or challenge")]
    OtherSubject,
}

impl BirthVerifier {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
    }

    /// Checks chain, image, signature, time window and subject. Takes about a millisecond of CPU.
    pub(crate) fn verify(&self, birth: &Birth, expected: &Expected<'_>) -> Result<(), BirthError> {
        if sha256(&birth.document) != birth.document_hash {
            return Err(BirthError::Hash);
        }
        let signed = SignedStatement {
            statement: birth.statement.to_vec(),
            signature: birth.signature.as_ref().try_into().map_err(|_| BirthError::Length)?,
            document: birth.document.to_vec(),
        };
        let named = expected.earlier.then(|| image_of(&signed.document)).flatten();
        let images = named.map(|image| PcrAllowList::new(vec![image]));
        let allowed = images.as_ref().unwrap_or(&self.trust.images);
        let (statement, _) = verify_statement(&signed, &self.trust.root, allowed)?;
        if is_about(&statement, expected) { Ok(()) } else { Err(BirthError::OtherSubject) }
    }
}

fn image_of(document: &[u8]) -> Option<Measurement> {
    let document = Document::parse_unverified(document).ok()?;
    Some(Measurement { pcr0: document.pcr(0)?, pcr1: document.pcr(1)?, pcr2: document.pcr(2)? })
}

fn is_about(statement: &Statement, expected: &Expected<'_>) -> bool {
    statement.kind == StatementKind::Birth
        && statement.keyspace == expected.keyspace
        && statement.key_id == expected.key_id.0
        && statement.public_key == *expected.public_key
        && statement.policy_hash == sha256(b"")
        && statement.challenge == expected.challenge
}
