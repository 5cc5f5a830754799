//! Birth statements are verified here before a key is acknowledged, with the code that applications
//! and `ctl verify-key` use offline.

use std::sync::Arc;

use sigil_enclave_client::KeyId;
use sigil_verifier::{
    Document, Measurement, Pcr, PcrAllowList, Provenance, SignedStatement, Statement,
    StatementError, StatementKind, verify_statement,
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
    /// The caller's, or for a possession statement our own nonce.
    pub(crate) challenge: Vec<u8>,
    /// The key was made earlier, perhaps in an image that is no longer on the list.
    pub(crate) earlier: bool,
}

/// A birth statement that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proved {
    /// By an image on the list.
    Here,
    /// By an image with this PCR0, which is not on the list. It proves nothing by itself: whoever
    /// owns any image can have made it.
    Elsewhere(Pcr),
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
    #[error("no accepted enclave vouches that the DEK was made in the image of the key's birth")]
    DekNotVouched,
}

impl BirthVerifier {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
    }

    /// Checks chain, image, signature, time window, subject and DEK of a birth statement. Takes about
    /// a millisecond of CPU.
    pub(crate) fn verify(&self, birth: &Birth, expected: &Expected) -> Result<Proved, BirthError> {
        let signed = signed(birth)?;
        let named = expected.earlier.then(|| image_of(&signed.document)).flatten();
        let elsewhere = named.filter(|image| !self.trust.images.entries().contains(image));
        let images = elsewhere.map(|image| PcrAllowList::new(vec![image]));
        let allowed = images.as_ref().unwrap_or(&self.trust.images);
        let (statement, _) = verify_statement(&signed, &self.trust.root, allowed)?;
        if !is_about(&statement, StatementKind::Birth, expected) {
            return Err(BirthError::OtherSubject);
        }
        if statement.dek_provenance != Provenance::Born {
            return Err(BirthError::DekNotBorn);
        }
        Ok(elsewhere.map_or(Proved::Here, |image| Proved::Elsewhere(image.pcr0)))
    }

    /// Checks what an accepted enclave says of a key that was born in the image with `birth_pcr0`.
    pub(crate) fn verify_possession(
        &self,
        proof: &Birth,
        expected: &Expected,
        birth_pcr0: Pcr,
    ) -> Result<(), BirthError> {
        let (statement, _) =
            verify_statement(&signed(proof)?, &self.trust.root, &self.trust.images)?;
        if !is_about(&statement, StatementKind::Possession, expected) {
            return Err(BirthError::OtherSubject);
        }
        // A foreign DEK vouches for nothing: its maker can own that image, and then knows the DEK.
        let vouched = statement.dek_provenance == Provenance::Born;
        if vouched && statement.key_birth_pcr0 == birth_pcr0 {
            Ok(())
        } else {
            Err(BirthError::DekNotVouched)
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

fn image_of(document: &[u8]) -> Option<Measurement> {
    let document = Document::parse_unverified(document).ok()?;
    Some(Measurement { pcr0: document.pcr(0)?, pcr1: document.pcr(1)?, pcr2: document.pcr(2)? })
}

fn is_about(statement: &Statement, kind: StatementKind, expected: &Expected) -> bool {
    statement.kind == kind
        && statement.app == expected.app
        && statement.keyspace == expected.keyspace
        && statement.key_id == expected.key_id.0
        && statement.public_key == expected.public_key
        && statement.policy_hash == sha256(b"")
        && statement.challenge == expected.challenge
}

#[cfg(test)]
mod tests;
