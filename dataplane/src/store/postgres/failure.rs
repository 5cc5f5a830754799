//! What an error of the driver means. The question that matters: is it certain that nothing was written?

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use super::super::StoreError;

/// Why a statement gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused it: nothing was written.
    Refused(StoreError),
    /// Another transaction was in the way: nothing was written, and another try may work.
    Again(StoreError),
    /// The connection ended without an answer: a write may be there or not, and another try finds out.
    Lost(StoreError),
    /// A write may be there or not, and another try now would not find out.
    Unknown(StoreError),
}

// === impl Failure ===

impl Failure {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Refused(error)
            | Self::Again(error)
            | Self::Lost(error)
            | Self::Unknown(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => of_server(refusal),
            None => Self::Lost(StoreError::Unavailable(told(&error))),
        }
    }
}

/// The codes are those of PostgreSQL's appendix A, by class.
fn of_server(refusal: &DbError) -> Failure {
    let text = format!("{} ({})", refusal.message(), refusal.code().code());
    let code = refusal.code().code();
    let class = code.get(..2).unwrap_or_default();
    match (class, code) {
        // Privileges, read-only transactions, authentication, a database that is not there.
        (_, "42501" | "25006") | ("28" | "3D", _) => Failure::Refused(StoreError::Denied(text)),
        // Damaged data and indexes; tables or columns that somebody took away.
        ("XX", _) | (_, "42P01" | "42703" | "3F000") => Failure::Refused(StoreError::Corrupt(text)),
        // Serialization failures and deadlocks.
        ("40", _) => Failure::Again(StoreError::Unavailable(text)),
        // A statement that an administrator cancelled is rolled back.
        (_, "57014") => Failure::Refused(StoreError::Unavailable(text)),
        // The server goes away, or the connection does: it says so before or after the commit.
        ("57" | "08", _) => Failure::Lost(StoreError::Unavailable(text)),
        _ => Failure::Refused(StoreError::Unavailable(text)),
    }
}

/// The error with its causes. The driver's errors hold no parameter and no password.
pub(super) fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
