//! Metrics of the operator and its pools. Labels are closed lists, and names of pools.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sigil_crds::{Condition, ConditionStatus};

use crate::outcome::Outcome;

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    outcome: &'static str,
}

/// A condition of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    namespace: String,
    pool: String,
    condition: &'static str,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// 1 while this process holds the lease.
    pub leader: Gauge,
    /// Errors of watches; each is retried.
    pub watch_errors: Counter,
    reconcile: Family<OutcomeLabels, Counter>,
    reconcile_seconds: Histogram,
    condition: Family<ConditionLabels, Gauge>,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let leader = Gauge::default();
        registry.register("sigil_operator_leader", "1 while it holds the lease", leader.clone());
        let watch_errors = Counter::default();
        registry.register(
            "sigil_operator_watch_errors",
            "Errors of watches, each retried",
            watch_errors.clone(),
        );
        let reconcile = Family::<OutcomeLabels, Counter>::default();
        registry.register("sigil_operator_reconcile", "Passes by outcome", reconcile.clone());
        // 5 ms to 10 s: a pass is some ten requests to the API server.
        let reconcile_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 12));
        registry.register(
            "sigil_operator_reconcile_seconds",
            "Time of a pass",
            reconcile_seconds.clone(),
        );
        let condition = Family::<ConditionLabels, Gauge>::default();
        registry.register("sigil_pool_condition", "1 True, 0 False, -1 Unknown", condition.clone());
        Self {
            registry: Mutex::new(registry),
            leader,
            watch_errors,
            reconcile,
            reconcile_seconds,
            condition,
        }
    }

    /// Counts a pass.
    pub fn pass(&self, outcome: Outcome, time: Duration) {
        self.reconcile.get_or_create(&OutcomeLabels { outcome: outcome.as_str() }).inc();
        self.reconcile_seconds.observe(time.as_secs_f64());
    }

    /// Shows the conditions of a pool as they were read.
    pub fn show(&self, namespace: &str, pool: &str, conditions: &[Condition]) {
        for condition in conditions {
            let value = match condition.status {
                ConditionStatus::True => 1,
                ConditionStatus::False => 0,
                ConditionStatus::Unknown => -1,
            };
            self.condition.get_or_create(&labels(namespace, pool, condition)).set(value);
        }
    }

    /// Forgets a pool that is gone.
    pub fn forget(&self, namespace: &str, pool: &str, conditions: &[Condition]) {
        for condition in conditions {
            self.condition.remove(&labels(namespace, pool, condition));
        }
    }

    /// All of them, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Ok(registry) = self.registry.lock() {
            // Writing to a string does not fail.
            let _ = encode(&mut text, &registry);
        }
        text
    }
}

fn labels(namespace: &str, pool: &str, condition: &Condition) -> ConditionLabels {
    ConditionLabels {
        namespace: namespace.to_owned(),
        pool: pool.to_owned(),
        condition: condition.type_.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use sigil_crds::ConditionType;

    use super::*;

    #[test]
    fn a_pool_that_is_gone_leaves_no_series() {
        let metrics = Metrics::new();
        let condition = Condition {
            type_: ConditionType::Ready,
            status: ConditionStatus::True,
            reason: "x".into(),
            message: String::new(),
            observed_generation: 1,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        metrics.show("ns", "demo", std::slice::from_ref(&condition));
        let series = r#"sigil_pool_condition{namespace="ns",pool="demo",condition="Ready"} 1"#;
        assert!(metrics.text().contains(series), "{}", metrics.text());
        metrics.forget("ns", "demo", &[condition]);
        assert!(!metrics.text().contains("demo"));
    }

    #[test]
    fn passes_are_counted_by_outcome() {
        let metrics = Metrics::new();
        metrics.pass(Outcome::Blocked, Duration::from_millis(20));
        assert!(metrics.text().contains(r#"sigil_operator_reconcile_total{outcome="blocked"} 1"#));
    }
}
