//! Settings of the ingress limiter (row G2).

use serde::{Deserialize, Serialize};

/// Requests that may wait at most: with a place of about 1 KiB each, 64 MiB.
const WAITING_MAX: u32 = 65_536;
/// Longest wait that can be set, ms; a request's own deadline ends it sooner.
const WAIT_TIMEOUT_MS_MAX: u64 = 60_000;

/// How many requests may be in flight. Off by default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Admission {
    /// Requests in flight at most, over all workers; 0: no limit.
    pub max_concurrent: u32,
    /// What becomes of one more.
    pub mode: AdmissionMode,
    /// Longest wait with `waitWithTimeout`, 1..=60000.
    pub wait_timeout_ms: u64,
    /// Requests that may wait, 1..=65536; one more is refused.
    pub waiting_max: u32,
}

/// What becomes of a request that finds no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AdmissionMode {
    /// It is refused at once.
    #[default]
    Try,
    /// It waits for a while.
    WaitWithTimeout,
    /// It waits until its deadline, or until the caller goes away.
    WaitCancellable,
}

// === impl Admission ===

impl Admission {
    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        let mut bound = |path: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                errors.push(format!("admission.{path}: {value} is not in {low}..={high}"));
            }
        };
        bound("waitTimeoutMs", self.wait_timeout_ms, 1, WAIT_TIMEOUT_MS_MAX);
        bound("waitingMax", self.waiting_max.into(), 1, WAITING_MAX.into());
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_concurrent: 0,
            mode: AdmissionMode::default(),
            wait_timeout_ms: 100,
            waiting_max: 1_024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let mut errors = Vec::new();
        Admission::default().validate(&mut errors);
        assert_eq!(errors, Vec::<String>::new());
        Admission { wait_timeout_ms: 0, waiting_max: 0, ..Admission::default() }
            .validate(&mut errors);
        assert_eq!(errors.len(), 2, "{errors:?}");
        let mode: AdmissionMode = serde_yaml_ng::from_str("waitCancellable").unwrap();
        assert_eq!(mode, AdmissionMode::WaitCancellable);
    }
}
