//! The relying party's half of attestation: what the dataplane, a KMS, or anybody who checks a key
//! offline asks beyond what an enclave asks of itself. Time and trust root are parameters.
//!
//! Documents are parsed, and their chains and signatures checked, by `sigil-attestation`, which the
//! enclave links too; what is here the enclave does not link. Formats: `docs/formats.md`.

mod allow_list;
pub mod bounds;
mod document;
mod statement;

pub use allow_list::{Measurement, PcrAllowList};
pub use document::{
    Checked, LiveError, VerifyTime, check_age, check_allowing_debug, root_from_pem_or_der, verify,
    verify_live,
};
pub use sigil_attestation::{
    Document, DocumentError, Pcr, Pcrs, Provenance, Statement, StatementKind, TrustRoot,
    TrustRootError, UserData, UserDataError, VerifyError,
};
pub use statement::{SignedStatement, StatementError, decode_statement, verify_statement};
