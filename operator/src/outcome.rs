//! How a pass ended: a metric label, and when the next pass comes without a change.

use std::time::Duration;

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Something was changed.
    Applied,
    /// Nothing to do until something outside happens.
    Waiting,
    /// Everything is as wanted.
    Skipped,
    /// A person must do something first.
    Blocked,
    /// A request to the API server failed; the pass is repeated.
    Failed,
}

// === impl Outcome ===

impl Outcome {
    /// Label of `sigil_operator_reconcile_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }

    /// When the next pass comes if no watch asks for one before. Watches bring everything that
    /// matters; this bounds the harm of one that was missed.
    pub fn requeue_after(self) -> Duration {
        match self {
            Self::Applied | Self::Failed => Duration::from_secs(5),
            Self::Waiting => Duration::from_secs(10),
            Self::Blocked => Duration::from_mins(1),
            Self::Skipped => Duration::from_mins(5),
        }
    }
}
