//! Statements about keys: what an enclave says, signed by the statement key of its boot, which a
//! document binds. Format and rule: `docs/formats.md`, "Statements".

use crate::bounds::STATEMENT_BYTES_MAX;
use crate::document::Pcr;
use crate::frame;

/// Label of a birth statement.
pub const BIRTH: &[u8] = b"sigil/birth/v1";
/// Label of a possession statement.
pub const POSSESSION: &[u8] = b"sigil/possession/v1";

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

impl Statement {
    /// The bytes that are signed. A field out of its bounds gives bytes that every verifier refuses.
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
}
