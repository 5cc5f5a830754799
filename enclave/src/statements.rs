//! Statements: what this enclave says about a key, signed by a key that lives as long as the boot
//! and is bound by an NSM document. Format: `docs/formats.md`, "Statements".

use std::sync::{PoisonError, RwLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;

use crate::rng::{Rng, RngError};
use crate::secret::Secret32;

/// Age at which the document is renewed: below its life, with room for tries.
pub const RENEW_AFTER_MS: u64 = 4 * 60 * 1_000;
/// Age above which nothing is signed. Verifiers allow 30 s more, for clocks.
pub const DOCUMENT_LIFE_MS: u64 = 5 * 60 * 1_000;

/// The statement key of this boot.
pub struct Statements {
    key: Ed25519KeyPair,
    bound: RwLock<Option<Bound>>,
}

#[derive(Clone)]
struct Bound {
    document: Bytes,
    timestamp_ms: u64,
}

/// A statement and all that is needed to verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement {
    /// The statement's bytes.
    pub statement: Vec<u8>,
    /// Ed25519 over them.
    pub signature: [u8; 64],
    /// The NSM document that binds the key.
    pub document: Bytes,
}

/// No document is fresh enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl Statements {
    /// Draws the key of this boot.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(rng: &Rng) -> Result<Self, RngError> {
        let mut seed = Secret32::zeroed().map_err(|_| RngError)?;
        rng.key_material(b"statement", &mut seed)?;
        let key = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret());
        Ok(Self { key: key.map_err(|_| RngError)?, bound: RwLock::new(None) })
    }

    /// The public key, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// Takes a new document that binds the key.
    pub fn bind(&self, document: Vec<u8>, timestamp_ms: u64) {
        let bound = Bound { document: document.into(), timestamp_ms };
        *self.bound.write().unwrap_or_else(PoisonError::into_inner) = Some(bound);
    }

    /// True if the document should be renewed at `wall_ms`.
    pub fn is_due(&self, wall_ms: u64) -> bool {
        let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
        bound.as_ref().is_none_or(|bound| wall_ms >= bound.timestamp_ms + RENEW_AFTER_MS)
    }

    /// Signs the statement that `encode` makes of the present time.
    ///
    /// # Errors
    /// The newest document is older than [`DOCUMENT_LIFE_MS`].
    pub fn sign(
        &self,
        wall_ms: u64,
        encode: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<SignedStatement, Stale> {
        let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Bound { document, timestamp_ms } = bound.ok_or(Stale)?;
        // A document made on another thread a moment ago may be ahead of the time read before it.
        let time_ms = wall_ms.max(timestamp_ms);
        if time_ms > timestamp_ms.saturating_add(DOCUMENT_LIFE_MS) {
            return Err(Stale);
        }
        let statement = encode(time_ms);
        let mut signature = [0; 64];
        signature.copy_from_slice(self.key.sign(&statement).as_ref());
        Ok(SignedStatement { statement, signature, document })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;
    use crate::nsm::{DocumentRequest, Nsm, NsmError};

    struct Entropy;

    impl Nsm for Entropy {
        fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
            Err(NsmError("no documents here".into()))
        }

        fn entropy(&self) -> Result<Secret32, NsmError> {
            Ok(Secret32::copy_from(&[1; 32]).unwrap())
        }
    }

    fn statements() -> Statements {
        Statements::new(&Rng::new(&Entropy).unwrap()).unwrap()
    }

    fn at(time_ms: u64) -> Vec<u8> {
        time_ms.to_be_bytes().to_vec()
    }

    #[test]
    fn a_statement_is_signed_with_the_newest_document() {
        let statements = statements();
        assert_eq!(statements.sign(0, at).unwrap_err(), Stale);
        statements.bind(b"first".to_vec(), 1_000);
        statements.bind(b"second".to_vec(), 2_000);
        let signed = statements.sign(2_500, at).unwrap();
        assert_eq!((&*signed.document, signed.statement), (&b"second"[..], at(2_500)));
        let key = UnparsedPublicKey::new(&ED25519, statements.public_key());
        key.verify(&at(2_500), &signed.signature).unwrap();
        assert_eq!(statements.sign(1_500, at).unwrap().statement, at(2_000), "not before it");
    }

    #[test]
    fn a_document_is_renewed_in_time_and_an_old_one_signs_nothing() {
        let statements = statements();
        assert!(statements.is_due(0));
        statements.bind(Vec::new(), 1_000);
        assert!(!statements.is_due(1_000 + RENEW_AFTER_MS - 1));
        assert!(statements.is_due(1_000 + RENEW_AFTER_MS));
        assert!(statements.sign(1_000 + DOCUMENT_LIFE_MS, at).is_ok());
        assert_eq!(statements.sign(1_001 + DOCUMENT_LIFE_MS, at), Err(Stale));
    }
}
