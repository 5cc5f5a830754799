//! The names of the checks: a closed list, stable, for machines. `docs/formats.md` says what each asks.

use sigil_verifier::{DocumentError, LiveError, StatementError, VerifyError};

/// The checks of every document, in the order of AWS' process: form, chain, signature.
pub(super) const DOCUMENT_CHECKS: [&str; 21] = [
    "size",
    "cose",
    "algorithm",
    "unprotected-header",
    "signature-length",
    "trailing-bytes",
    "payload",
    "duplicate-key",
    "unknown-key",
    "missing-key",
    "bounds",
    "digest",
    "nitro-tpm",
    "root",
    "not-before",
    "not-after",
    "chain",
    "chain-order",
    "key-usage",
    "leaf-key",
    "signature",
];

/// Which check of a document failed.
fn of_verification(error: VerifyError) -> &'static str {
    match error {
        VerifyError::Document(error) => of_form(error),
        VerifyError::OtherRoot => "root",
        VerifyError::CertNotValidYet => "not-before",
        VerifyError::CertExpired => "not-after",
        VerifyError::Chain => "chain",
        VerifyError::ChainOrder => "chain-order",
        VerifyError::KeyUsage => "key-usage",
        VerifyError::LeafKey => "leaf-key",
        VerifyError::Signature => "signature",
        VerifyError::Debug => "debug",
    }
}

/// Which check of a document that should be live failed.
pub(super) fn of_live(error: LiveError) -> &'static str {
    match error {
        LiveError::Document(error) => of_verification(error),
        LiveError::FromFuture => "future",
        LiveError::TooOld => "age",
        LiveError::Nonce => "nonce",
    }
}

fn of_form(error: DocumentError) -> &'static str {
    match error {
        DocumentError::TooLarge => "size",
        DocumentError::Cose => "cose",
        DocumentError::Algorithm => "algorithm",
        DocumentError::Unprotected => "unprotected-header",
        DocumentError::SignatureLength => "signature-length",
        DocumentError::TrailingBytes => "trailing-bytes",
        DocumentError::Malformed(_) => "payload",
        DocumentError::Duplicate(_) => "duplicate-key",
        DocumentError::UnknownKey => "unknown-key",
        DocumentError::Missing(_) => "missing-key",
        DocumentError::OutOfBounds(_) => "bounds",
        DocumentError::Digest => "digest",
        DocumentError::NitroTpm => "nitro-tpm",
    }
}

/// Which check of a statement, or of its document, failed.
pub(super) fn of_statement(error: StatementError) -> &'static str {
    match error {
        StatementError::Document(error) => of_verification(error),
        StatementError::NotAllowed => "measurements",
        StatementError::NotStatementKey => "statement-key",
        StatementError::Signature => "statement-signature",
        StatementError::Malformed => "statement",
        StatementError::Window => "statement-time",
        StatementError::Contradiction => "statement-origin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_document_is_a_check_that_a_report_names() {
        let errors = [
            DocumentError::TooLarge,
            DocumentError::Cose,
            DocumentError::Algorithm,
            DocumentError::Unprotected,
            DocumentError::SignatureLength,
            DocumentError::TrailingBytes,
            DocumentError::Malformed(""),
            DocumentError::Duplicate(""),
            DocumentError::UnknownKey,
            DocumentError::Missing(""),
            DocumentError::OutOfBounds(""),
            DocumentError::Digest,
            DocumentError::NitroTpm,
        ];
        let chain = [
            VerifyError::OtherRoot,
            VerifyError::CertNotValidYet,
            VerifyError::CertExpired,
            VerifyError::Chain,
            VerifyError::ChainOrder,
            VerifyError::KeyUsage,
            VerifyError::LeafKey,
            VerifyError::Signature,
        ];
        let names: Vec<_> =
            errors.into_iter().map(VerifyError::from).chain(chain).map(of_verification).collect();
        assert_eq!(names, DOCUMENT_CHECKS);
    }
}
