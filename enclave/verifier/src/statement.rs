//! Verifies statements about keys. Format and rule: `docs/formats.md`, "Statements".

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use sigil_attestation::bounds::{NAME_BYTES_MAX, STATEMENT_BYTES_MAX};
use sigil_attestation::frame::{Malformed, Reader};
use sigil_attestation::statement::{BIRTH, POSSESSION};
use sigil_attestation::{
    Document, Pcr, Provenance, Statement, StatementKind, TrustRoot, UserData, VerifyError, verify,
};

use crate::allow_list::PcrAllowList;
use crate::bounds::{CHALLENGE_BYTES_MAX, STATEMENT_WINDOW_MS};

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

/// Reads a statement *without verifying it*.
///
/// # Errors
/// [`StatementError::Malformed`].
pub fn decode_statement(bytes: &[u8]) -> Result<Statement, StatementError> {
    let mut reader = Reader(bytes);
    let kind = match reader.field(STATEMENT_BYTES_MAX)? {
        BIRTH => StatementKind::Birth,
        POSSESSION => StatementKind::Possession,
        _ => return Err(StatementError::Malformed),
    };
    let statement = Statement {
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
    let document = verify(&signed.document, root)?;
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
    let statement = decode_statement(&signed.statement)?;
    let earliest_ms = document.timestamp_ms;
    let latest_ms = earliest_ms.saturating_add(STATEMENT_WINDOW_MS);
    if !(earliest_ms..=latest_ms).contains(&statement.time_ms) {
        return Err(StatementError::Window);
    }
    if !agrees_with(&statement, document.pcr(0)) {
        return Err(StatementError::Contradiction);
    }
    Ok((statement, document))
}

/// True if an honest enclave whose PCR0 is `own` can have made this statement.
fn agrees_with(statement: &Statement, own: Option<Pcr>) -> bool {
    let dek = match statement.dek_provenance {
        Provenance::Born => Some(statement.dek_birth_pcr0) == own,
        Provenance::Foreign => Some(statement.dek_birth_pcr0) != own,
        Provenance::Unproven => statement.dek_birth_pcr0 == [0; 48],
    };
    let key = match statement.kind {
        StatementKind::Birth => Some(statement.key_birth_pcr0) == own,
        StatementKind::Possession => true,
    };
    dek && key
}
