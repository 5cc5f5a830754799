//! An enclave that accepts connections and never answers is as good as none. The launcher does not see
//! that; failed health checks do.

use crate::status::StatusWriter;

/// Health checks in a row that fail before the enclave no longer counts as running. One or two are a
/// moment of load; three take at most 45 s, period and timeout together.
const HEALTH_FAILURES_COUNT_MAX: u32 = 3;

/// The health of one boot, as far as it was observed.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
}

// === impl Health ===

impl Health {
    /// Takes one result and tells the status; says so in the log once a change.
    pub(super) fn observed<E: std::fmt::Display>(
        &mut self,
        result: &Result<(), E>,
        status: &StatusWriter,
    ) {
        match result {
            Ok(()) => {
                if self.failures >= HEALTH_FAILURES_COUNT_MAX {
                    tracing::warn!("the enclave answers health checks again");
                }
                self.failures = 0;
                status.update(|status| {
                    status.running = true;
                    status.health_error = None;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "health not read");
                self.failures = self.failures.saturating_add(1);
                if self.failures == HEALTH_FAILURES_COUNT_MAX {
                    let why = format!(
                        "{HEALTH_FAILURES_COUNT_MAX} health checks in a row failed: {error}"
                    );
                    tracing::warn!(why, "the enclave no longer counts as running");
                    status.update(|status| {
                        status.running = false;
                        status.health_error = Some(why);
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_end_running_and_one_success_brings_it_back() {
        let status = StatusWriter::new(&[]);
        status.update(|status| status.running = true);
        let mut health = Health::default();
        let failed = Err("no answer");
        for result in [&failed, &failed, &Ok(()), &failed, &failed] {
            health.observed(result, &status);
            assert!(status.snapshot().running, "not three in a row");
        }
        for _ in 0..2 {
            health.observed(&failed, &status);
            let snapshot = status.snapshot();
            assert!(!snapshot.running);
            let why = snapshot.health_error.unwrap();
            assert_eq!(why, "3 health checks in a row failed: no answer");
        }
        health.observed::<&str>(&Ok(()), &status);
        let snapshot = status.snapshot();
        assert!(snapshot.running && snapshot.health_error.is_none());
    }
}
