//! Birth statements are verified here before a key is acknowledged, with the code that applications
//! and `ctl verify-key` use offline.

use std::sync::Arc;

use sigil_enclave_client::KeyId;
use sigil_verifier::{
    Provenance, SignedStatement, Statement, StatementError, StatementKind, verify_statement,
};

use super::Trust;
use crate::app::Birth;
use crate::store::sha256;

/// Verifies statements against the member's trust.
pub(crate) struct BirthVerifier {
    trust: Arc<Trust>,
}

/// What a statement must say.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// The app of the enclave that has opened the key.
    pub(crate) app: String,
    pub(crate) keyspace: String,
    pub(crate) key_id: KeyId,
    pub(crate) public_key: [u8; 33],
    /// The caller's.
    pub(crate) challenge: Vec<u8>,
    /// The key was made earlier, perhaps in an image that is retired.
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
    #[error("it is about another app, key, keyspace, policy or challenge")]
    OtherSubject,
    #[error("it says that the key was sealed under a DEK that was not made in its image")]
    DekNotBorn,
}

impl BirthVerifier {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
    }

    /// Checks chain, image, signature, time window, subject and DEK of a birth statement. Takes about
    /// a millisecond of CPU.
    pub(crate) fn verify(&self, birth: &Birth, expected: &Expected) -> Result<(), BirthError> {
        let Trust { root, images, birthplaces } = &*self.trust;
        let images = if expected.earlier { birthplaces } else { images };
        let (statement, _) = verify_statement(&signed(birth)?, root, images)?;
        if !is_about(&statement, expected) {
            return Err(BirthError::OtherSubject);
        }
        if statement.dek_provenance == Provenance::Born {
            Ok(())
        } else {
            Err(BirthError::DekNotBorn)
        }
    }
}

fn signed(birth: &Birth) -> Result<SignedStatement, BirthError> {
    if sha256(&birth.document) != birth.document_hash {
        return Err(BirthError::Hash);
    }
    Ok(SignedStatement {
        statement: birth.statement.to_vec(),
        signature: birth.signature.as_ref().try_into().map_err(|_| BirthError::Length)?,
        document: birth.document.to_vec(),
    })
}

fn is_about(statement: &Statement, expected: &Expected) -> bool {
    statement.kind == StatementKind::Birth
        && statement.app == expected.app
        && statement.keyspace == expected.keyspace
        && statement.key_id == expected.key_id.0
        && statement.public_key == expected.public_key
        && statement.policy_hash == sha256(b"")
        && statement.challenge == expected.challenge
}

#[cfg(test)]
mod tests;
