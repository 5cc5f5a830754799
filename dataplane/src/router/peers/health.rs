//! The breaker of one member: failures in a row shut it, then one request finds out. Pure: time comes
//! from the caller. A member fails when it does not answer, and when it answers that its enclave does
//! not: the next in the ring then has its keys, without a try for each.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that shut it (row G3, as for enclaves).
const FAILURES_MAX: u32 = 3;
/// How long it stays shut, and how long one request may take to find out.
const RECOVERY: Duration = Duration::from_secs(1);

/// State of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Requests pass.
    Admitting {
        /// In a row.
        failures: u32,
    },
    /// None passes until then.
    Shut { until: Instant },
    /// One is finding out, since then.
    Probing { since: Instant },
}

// === impl Health ===

impl Health {
    /// Admits everything.
    pub(super) const NEW: Self = Self::Admitting { failures: 0 };

    /// Whether a request would pass.
    pub(super) fn admits(self, now: Instant) -> bool {
        match self {
            Self::Admitting { .. } => true,
            Self::Shut { until } => until <= now,
            // Whoever was to find out may have gone away.
            Self::Probing { since } => since + RECOVERY <= now,
        }
    }

    /// Name of the state.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Admitting { .. } => "Admitting",
            Self::Shut { .. } => "Shut",
            Self::Probing { .. } => "Probing",
        }
    }

    /// The state after a request passed; it was admitted.
    pub(super) fn passed(self, now: Instant) -> Self {
        match self {
            Self::Admitting { .. } => self,
            Self::Shut { .. } | Self::Probing { .. } => Self::Probing { since: now },
        }
    }

    /// The state after the member's enclave answered, whatever it said.
    pub(super) fn answered(self) -> Self {
        match self {
            // What was on its way before proves nothing.
            Self::Shut { .. } => self,
            Self::Admitting { .. } | Self::Probing { .. } => Self::NEW,
        }
    }

    /// The state after a request came back without an answer of the member's enclave.
    pub(super) fn failed(self, now: Instant) -> Self {
        let shut = Self::Shut { until: now + RECOVERY };
        match self {
            Self::Admitting { failures } if failures + 1 < FAILURES_MAX => {
                Self::Admitting { failures: failures + 1 }
            }
            Self::Admitting { .. } | Self::Probing { .. } => shut,
            Self::Shut { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_shut_it_and_one_request_finds_out() {
        let start = Instant::now();
        let mut health = Health::NEW.failed(start).failed(start).answered().failed(start);
        assert!(health.failed(start).admits(start), "only failures in a row count");
        health = health.failed(start).failed(start);
        assert!(!health.admits(start));
        assert_eq!(health.answered(), health, "an answer from before proves nothing");
        let later = start + RECOVERY;
        assert!(health.admits(later));
        let probing = health.passed(later);
        assert!(!probing.admits(later), "one at a time");
        assert_eq!(probing.answered(), Health::NEW);
        assert!(!probing.failed(later).admits(later));
        assert!(probing.failed(later).admits(later + RECOVERY));
        assert!(probing.admits(later + RECOVERY), "the one that was to find out never ended");
    }
}
