//! Settings of the HTTP requests that this process makes itself (row G1, decision 32).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest of each time-out, s.
const TIMEOUT_S_MAX: u64 = 3_600;

/// Requests to the API server and to whatever gives AWS credentials. KMS has limits of its own, in
/// `unlock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Outbound {
    /// How long each part of a request may take.
    pub timeout_config: TimeoutConfig,
}

/// Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TimeoutConfig {
    /// Until the connection is there, 1..=3600.
    pub dial: u64,
    /// From the request to the head of its answer, 0..=3600; 0: no limit.
    pub response_header: u64,
    /// Until a connection that nobody uses is closed, 1..=3600.
    pub idle: u64,
}

// === impl Outbound ===

impl Outbound {
    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        let times = &self.timeout_config;
        for (name, value, low) in [
            ("dial", times.dial, 1),
            ("responseHeader", times.response_header, 0),
            ("idle", times.idle, 1),
        ] {
            if !(low..=TIMEOUT_S_MAX).contains(&value) {
                errors.push(format!(
                    "outbound.timeoutConfig.{name}: {value} is not in {low}..={TIMEOUT_S_MAX}"
                ));
            }
        }
    }
}

// === impl TimeoutConfig ===

impl TimeoutConfig {
    /// Until the connection is there.
    pub(crate) fn dial(&self) -> Duration {
        Duration::from_secs(self.dial)
    }

    /// Until the head of an answer; none without a limit.
    pub(crate) fn response_header(&self) -> Option<Duration> {
        (self.response_header > 0).then(|| Duration::from_secs(self.response_header))
    }

    /// Until an unused connection is closed.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle)
    }
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self { dial: 2, response_header: 30, idle: 90 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_out_of_range_are_named_and_no_limit_is_0() {
        let mut errors = Vec::new();
        Outbound::default().validate(&mut errors);
        assert_eq!(errors, Vec::<String>::new());
        let text = "timeoutConfig: {dial: 0, responseHeader: 0, idle: 3601}";
        let outbound: Outbound = serde_yaml_ng::from_str(text).unwrap();
        outbound.validate(&mut errors);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!(outbound.timeout_config.response_header(), None);
    }
}
