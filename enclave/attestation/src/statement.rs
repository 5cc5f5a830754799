//! Statements about keys: what an enclave says, signed by the statement key of its boot, which a
//! document binds. Format and rule: `docs/formats.md`, "Statements".

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::allow_list::PcrAllowList;
use crate::bounds::{
    CHALLENGE_BYTES_MAX, NAME_BYTES_MAX, STATEMENT_BYTES_MAX, STATEMENT_WINDOW_MS,
};
use crate::document::{Document, Pcr};
use crate::frame::{self, Malformed, Reader};
use crate::user_data::UserData;
use crate::verify::{TrustRoot, VerifyError, VerifyTime, verify};

const BIRTH: &[u8] = b"sigil/birth/v1";
const POSSESSION: &[u8] = b"sigil/possession/v1";

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// This enclave has made the key.
    Birth,
    /// This enclave holds the key; the challenge is a verifier's nonce.
    Possession,
}

/// What is proved about the origin of the DEK that seals the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Generated in the image that makes the statement.
    Born,
    /// Generated in an enclave of another image.
    Foreign,
    /// No birth document verifies.
    Unproven,
}

/// A statement's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is about.
    pub kind: StatementKind,
    /// Name of the deployment, 1-63 bytes.
    pub app: String,
    /// Keyspace of the key, 1-63 bytes.
    pub keyspace: String,
    /// The key's id.
    pub key_id: [u8; 16],
    /// The key: compressed SEC1.
    pub public_key: [u8; 33],
    /// SHA-256 of the key's policy.
    pub policy_hash: [u8; 32],
    /// The caller's challenge or the verifier's nonce, at most 64 bytes.
    pub challenge: Vec<u8>,
    /// The DEK that seals the key.
    pub dek_id: [u8; 16],
    /// What is proved about that DEK.
    pub dek_provenance: Provenance,
    /// PCR0 of the image that generated the DEK; zeros when unproven.
    pub dek_birth_pcr0: Pcr,
    /// PCR0 of the image that made the key.
    pub key_birth_pcr0: Pcr,
    /// When the statement was made, milliseconds since 1970.
    pub time_ms: u64,
}

/// A statement with all that is needed to verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement {
    /// The statement's bytes.
    pub statement: Vec<u8>,
    /// Ed25519 by the statement key, over them.
    pub signature: [u8; 64],
    /// The document that binds the statement key.
    pub document: Vec<u8>,
}

/// Why a statement is refused. One variant a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not a statement.
    #[error("statement: not in the format of a birth or possession statement, version 1")]
    Malformed,
    /// Its document does not verify.
    #[error(transparent)]
    Document(#[from] VerifyError),
    /// The document is of an image that the verifier does not accept.
    #[error("measurements: PCR0, PCR1 and PCR2 match no entry of the allow-list")]
    NotAllowed,
    /// The document does not bind a statement key.
    #[error("document: it does not bind a statement key")]
    NotStatementKey,
    /// Not signed by the bound key.
    #[error("signature: not made by the statement key over this statement")]
    Signature,
    /// The statement's time is not in the window that starts at the document's.
    #[error("time: the statement is older than its document, or more than 330 s younger")]
    Window,
    /// The statement says of its own image what the document contradicts.
    #[error("statement: it contradicts its document about the image it was made in")]
    Contradiction,
}

impl From<Malformed> for StatementError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Statement {
    /// The bytes that are signed. A field out of its bounds gives bytes that
    /// [`Statement::decode`] refuses.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STATEMENT_BYTES_MAX);
        frame::put(
            &mut out,
            match self.kind {
                StatementKind::Birth => BIRTH,
                StatementKind::Possession => POSSESSION,
            },
        );
        frame::put(&mut out, self.app.as_bytes());
        frame::put(&mut out, self.keyspace.as_bytes());
        out.extend_from_slice(&self.key_id);
        out.extend_from_slice(&self.public_key);
        out.extend_from_slice(&self.policy_hash);
        frame::put(&mut out, &self.challenge);
        out.extend_from_slice(&self.dek_id);
        out.push(match self.dek_provenance {
            Provenance::Born => 1,
            Provenance::Foreign => 2,
            Provenance::Unproven => 3,
        });
        out.extend_from_slice(&self.dek_birth_pcr0);
        out.extend_from_slice(&self.key_birth_pcr0);
        out.extend_from_slice(&self.time_ms.to_be_bytes());
        out
    }

    /// Reads a statement *without verifying it*.
    ///
    /// # Errors
    /// [`StatementError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let mut reader = Reader(bytes);
        let kind = match reader.field(STATEMENT_BYTES_MAX)? {
            BIRTH => StatementKind::Birth,
            POSSESSION => StatementKind::Possession,
            _ => return Err(StatementError::Malformed),
        };
        let statement = Self {
            kind,
            app: reader.name(NAME_BYTES_MAX)?,
            keyspace: reader.name(NAME_BYTES_MAX)?,
            key_id: reader.array()?,
            public_key: reader.array()?,
            policy_hash: reader.array()?,
            challenge: reader.field(CHALLENGE_BYTES_MAX)?.to_vec(),
            dek_id: reader.array()?,
            dek_provenance: match reader.array()? {
                [1] => Provenance::Born,
                [2] => Provenance::Foreign,
                [3] => Provenance::Unproven,
                _ => return Err(StatementError::Malformed),
            },
            dek_birth_pcr0: reader.array()?,
            key_birth_pcr0: reader.array()?,
            time_ms: u64::from_be_bytes(reader.array()?),
        };
        reader.end()?;
        Ok(statement)
    }

    /// True if an honest enclave whose PCR0 is `own` can have made this statement.
    fn agrees_with(&self, own: Option<Pcr>) -> bool {
        let dek = match self.dek_provenance {
            Provenance::Born => Some(self.dek_birth_pcr0) == own,
            Provenance::Foreign => Some(self.dek_birth_pcr0) != own,
            Provenance::Unproven => self.dek_birth_pcr0 == [0; 48],
        };
        let key = match self.kind {
            StatementKind::Birth => Some(self.key_birth_pcr0) == own,
            StatementKind::Possession => true,
        };
        dek && key
    }
}

/// Verifies a statement offline: the document's chain at its own timestamp, its measurements, the
/// key it binds, the signature, and the time.
///
/// The caller still compares what it asked for: public key, app, keyspace, challenge; and decides
/// whether a DEK that is not [`Provenance::Born`], or a key born in another image, will do.
///
/// # Errors
/// See [`StatementError`].
pub fn verify_statement(
    signed: &SignedStatement,
    root: &TrustRoot,
    allow: &PcrAllowList,
) -> Result<(Statement, Document), StatementError> {
    let document = verify(&signed.document, root, VerifyTime::AtDocument)?;
    if !allow.allows(&document.pcrs) {
        return Err(StatementError::NotAllowed);
    }
    if !matches!(document.user_data(), Ok(UserData::StatementKey { .. })) {
        return Err(StatementError::NotStatementKey);
    }
    let key = document.public_key.as_deref().filter(|key| key.len() == 32);
    UnparsedPublicKey::new(&ED25519, key.ok_or(StatementError::NotStatementKey)?)
        .verify(&signed.statement, &signed.signature)
        .map_err(|_| StatementError::Signature)?;
    let statement = Statement::decode(&signed.statement)?;
    let earliest_ms = document.timestamp_ms;
    let latest_ms = earliest_ms.saturating_add(STATEMENT_WINDOW_MS);
    if !(earliest_ms..=latest_ms).contains(&statement.time_ms) {
        return Err(StatementError::Window);
    }
    if !statement.agrees_with(document.pcr(0)) {
        return Err(StatementError::Contradiction);
    }
    Ok((statement, document))
}
