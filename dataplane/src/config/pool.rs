//! Settings of the connections to an enclave (rows S2a-S2e, S7a). They may change while running: the
//! pool follows them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, CONNECTIONS_MAX};

/// Two thirds of what an enclave accepts: attestation, unlocks and connections that are being replaced
/// need room too.
const POOL_CONNECTIONS_MAX: usize = CONNECTIONS_MAX / 3 * 2;
/// Longest wait of a message for more digests (`maxWait`).
const MAX_WAIT_MS_MAX: u64 = 2;

/// The connections to one enclave, over all workers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Pool {
    /// Connections that are always open, 1..=256; each worker has at least one.
    pub min: usize,
    /// Connections under load, `min`..=256.
    pub max: usize,
    /// Time between keepalive pings, also without streams; 0: none.
    pub keepalive_interval_ms: u64,
    /// Longest wait for the answer to one.
    pub keepalive_timeout_ms: u64,
    /// Whether connections that are silent are asked for their health.
    pub probe: bool,
    /// Time between two probes of a connection, which is also how long one may take.
    pub probe_period_ms: u64,
    /// Failures in a row that take a connection out, and that shut the enclave's breaker.
    pub failures: u32,
    /// How long a connection stays out, and how long the breaker stays shut.
    pub cooldown_ms: u64,
    /// Longest wait for requests in flight on a connection that is drained.
    pub drain_ms: u64,
    /// Digests of one message, 1..=32; 1 turns batching off.
    pub max_batch: usize,
    /// With `noWait` off: how long a message that is not full waits for more, 1..=2, while earlier ones
    /// have no answer.
    pub max_wait_ms: u64,
    /// A message goes as soon as the connection takes it, with whatever is queued by then.
    pub no_wait: bool,
}

// === impl Pool ===

impl Pool {
    /// Time between keepalive pings, if any.
    pub(crate) fn keepalive_interval(&self) -> Option<Duration> {
        (self.keepalive_interval_ms > 0).then(|| Duration::from_millis(self.keepalive_interval_ms))
    }

    /// Time between two probes of a connection, if it is probed.
    pub(crate) fn probe_period(&self) -> Option<Duration> {
        self.probe.then(|| Duration::from_millis(self.probe_period_ms))
    }

    /// How long a message waits for more.
    pub(crate) fn wait(&self) -> Option<Duration> {
        (!self.no_wait).then(|| Duration::from_millis(self.max_wait_ms))
    }

    /// Rules that types do not express.
    pub(crate) fn validate(&self, errors: &mut Vec<String>) {
        let mut bound = |path: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                errors.push(format!("pool.{path}: {value} is not in {low}..={high}"));
            }
        };
        bound("min", self.min as u64, 1, POOL_CONNECTIONS_MAX as u64);
        bound("max", self.max as u64, 1, POOL_CONNECTIONS_MAX as u64);
        bound("keepaliveIntervalMs", self.keepalive_interval_ms, 0, 3_600_000);
        bound("keepaliveTimeoutMs", self.keepalive_timeout_ms, 10, 60_000);
        bound("probePeriodMs", self.probe_period_ms, 10, 60_000);
        bound("failures", self.failures.into(), 1, 100);
        bound("cooldownMs", self.cooldown_ms, 10, 60_000);
        bound("drainMs", self.drain_ms, 0, 60_000);
        bound("maxBatch", self.max_batch as u64, 1, BATCH_ITEMS_MAX as u64);
        bound("maxWaitMs", self.max_wait_ms, 1, MAX_WAIT_MS_MAX);
        if self.min > self.max {
            let (min, max) = (self.min, self.max);
            errors.push(format!("pool.min: {min} is more than pool.max, {max}; raise pool.max"));
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            min: 16,
            max: 32,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 10_000,
            probe: true,
            probe_period_ms: 1_000,
            failures: 3,
            cooldown_ms: 1_000,
            drain_ms: 10_000,
            max_batch: BATCH_ITEMS_MAX,
            max_wait_ms: MAX_WAIT_MS_MAX,
            no_wait: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(pool: &Pool) -> Vec<String> {
        let mut errors = Vec::new();
        pool.validate(&mut errors);
        errors
    }

    #[test]
    fn the_defaults_and_the_fallback_are_valid() {
        assert!(errors(&Pool::default()).is_empty());
        let fallback = Pool { min: 1, max: 1, keepalive_interval_ms: 0, ..Pool::default() };
        assert!(errors(&fallback).is_empty());
        assert_eq!(fallback.keepalive_interval(), None);
        assert_eq!(Pool { probe: false, ..Pool::default() }.probe_period(), None);
        assert_eq!(Pool::default().wait(), None);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let wrong = Pool { min: 33, max: 32, max_batch: 33, max_wait_ms: 3, ..Pool::default() };
        let errors = errors(&wrong);
        for path in ["pool.min", "pool.maxBatch", "pool.maxWaitMs"] {
            assert!(errors.iter().any(|error| error.starts_with(path)), "{path}: {errors:?}");
        }
        assert_eq!(errors.len(), 3, "{errors:?}");
    }
}
