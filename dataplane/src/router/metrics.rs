//! What is counted of routing. Everything but the ring's own gauges stays at zero without a membership.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::Calls;

/// Handles, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteMetrics {
    /// Epoch that workers route by.
    pub(crate) ring_epoch: Gauge,
    /// Members that own keys.
    pub(crate) ring_members: Gauge,
    /// Requests that the first choice of the policy answered (row S9a).
    pub(crate) sticky: Counter,
    /// Requests that another enclave answered (row S9a).
    pub(crate) cross_enclave: Counter,
    /// Requests sent to another dataplane.
    pub(crate) hops: Counter,
    /// Of these, those that came back without an answer.
    pub(crate) hops_failed: Counter,
    /// Requests that another dataplane sent.
    pub(crate) hops_received: Counter,
    /// Of these, those of another epoch than ours.
    pub(crate) hops_of_other_epochs: Counter,
    /// What is asked of other dataplanes.
    pub(crate) calls: Arc<Calls>,
}

// === impl RouteMetrics ===

impl RouteMetrics {
    /// Names them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("ring_epoch", "Epoch of the ring that requests are routed by", &self.ring_epoch),
            ("ring_members", "Members that own keys", &self.ring_members),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("sticky_route", "Answered by the first choice of the policy", &self.sticky),
            ("cross_enclave_route", "Answered by another enclave", &self.cross_enclave),
            ("hop", "Requests sent to another dataplane", &self.hops),
            ("hop_fail", "Of these, those without an answer", &self.hops_failed),
            ("hop_received", "Requests of another dataplane", &self.hops_received),
            ("hop_other_epoch", "Of these, those by another ring", &self.hops_of_other_epochs),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
