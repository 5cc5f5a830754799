//! Metrics of all pools, with the names of row S2f: a scrape adds up what the workers counted.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use serde_json::Value;

use super::Upstream;
use super::connection::Phase;
use super::counters::{ACQUIRE_BOUNDS_US, BATCH_BOUNDS, Counters};

type NoLabels = [(&'static str, &'static str); 0];
/// Microseconds of a millisecond.
const US_A_MS: f64 = 1_000.0;

/// Every enclave that this process has pools to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams(Arc<Mutex<Vec<Arc<Upstream>>>>);

// === impl Upstreams ===

impl Upstreams {
    /// One more.
    pub(crate) fn add(&self, upstream: &Arc<Upstream>) {
        self.lock().push(Arc::clone(upstream));
    }

    /// All of them, or the one with that id.
    pub(crate) fn find(&self, enclave_id: Option<&str>) -> Vec<Arc<Upstream>> {
        let fits =
            |upstream: &&Arc<Upstream>| enclave_id.is_none_or(|id| id == upstream.enclave_id);
        self.lock().iter().filter(fits).cloned().collect()
    }

    /// For `/debug/status`.
    pub(crate) fn debug(&self) -> Value {
        self.lock().iter().map(|upstream| upstream.debug()).collect()
    }

    /// Each enclave's `circuit_breaker_state`.
    pub(crate) fn breakers(&self) -> Vec<(String, i64)> {
        let state =
            |upstream: &Arc<Upstream>| (upstream.enclave_id.clone(), upstream.breaker_gauge());
        self.lock().iter().map(state).collect()
    }

    /// The breaker that admits least: 0 admitting, 1 probing, 2 shut.
    pub(crate) fn breaker(&self) -> i64 {
        let states = self.lock();
        states.iter().map(|upstream| upstream.breaker_gauge()).max().unwrap_or(0)
    }

    /// Connections to all of them that take requests.
    pub(crate) fn healthy(&self) -> i64 {
        let count = |upstream: &Arc<Upstream>| -> i64 {
            upstream.sum(|counters| counters.count(Phase::Healthy))
        };
        self.lock().iter().map(count).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Upstream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Upstreams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let all = self.find(None);
        gauges(&all, &mut encoder)?;
        counters(&all, &mut encoder)?;
        let histograms: [(_, _, Read, &[u64], f64); 2] = [
            (
                "pool_acquire_latency_ms",
                "From asking for a connection to leaving in a message; one request in 16",
                |counters| counters.acquire_us.read(),
                &ACQUIRE_BOUNDS_US,
                US_A_MS,
            ),
            (
                "batch_size_hist",
                "Digests of one message",
                |counters| counters.batch.read(),
                &BATCH_BOUNDS,
                1.0,
            ),
        ];
        for (name, help, read, bounds, unit) in histograms {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for upstream in &all {
                let labels = [("enclave_id", &*upstream.enclave_id)];
                let mut metric = family.encode_family(&labels)?;
                histogram(&mut metric, upstream, read, (bounds, unit))?;
            }
        }
        Ok(())
    }
}

type Number = fn(&Counters) -> u64;
type Read = fn(&Counters) -> (Vec<u64>, u64);

fn gauges(all: &[Arc<Upstream>], encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Connections to the enclave that take requests";
    let mut family = encoder.encode_descriptor("active_conns", help, None, MetricType::Gauge)?;
    for upstream in all {
        let count: i64 = upstream.sum(|counters| counters.count(Phase::Healthy));
        family.encode_family(&[("enclave_id", &*upstream.enclave_id)])?.encode_gauge(&count)?;
    }
    let help = "Connections that should be there at least";
    let mut family = encoder.encode_descriptor("pool_conns_min", help, None, MetricType::Gauge)?;
    for upstream in all {
        let labels = [("enclave_id", &*upstream.enclave_id)];
        family.encode_family(&labels)?.encode_gauge(&upstream.connections_min())?;
    }
    let help = "Connections by state";
    let mut family = encoder.encode_descriptor("conn_pool_state", help, None, MetricType::Gauge)?;
    for upstream in all {
        for phase in Phase::ALL {
            let labels = [("enclave_id", &*upstream.enclave_id), ("state", phase.as_str())];
            let count: i64 = upstream.sum(|counters| counters.count(phase));
            family.encode_family(&labels)?.encode_gauge(&count)?;
        }
    }
    Ok(())
}

fn counters(all: &[Arc<Upstream>], encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    use std::sync::atomic::Ordering::Relaxed;
    let counters: [(_, _, Number); 3] = [
        ("grpc_stream_resets", "Sign streams that ended early", |counters| {
            counters.resets.load(Relaxed)
        }),
        ("pool_exhausted", "Requests without a connection, or on a full one", |counters| {
            counters.exhausted.load(Relaxed)
        }),
        ("boundary_crossings", "Messages to the enclave", |counters| {
            counters.batch.read().0.iter().sum()
        }),
    ];
    for (name, help, count) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for upstream in all {
            let labels = [("enclave_id", &*upstream.enclave_id)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabels, _, f64>(&upstream.sum(count), None)?;
        }
    }
    Ok(())
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    upstream: &Upstream,
    read: Read,
    (bounds, unit): (&[u64], f64),
) -> Result<(), Error> {
    let at = |at: usize| upstream.sum(|counters| read(counters).0.get(at).copied().unwrap_or(0));
    let upper = bounds.iter().map(|bound| number(*bound) / unit).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> =
        upper.enumerate().map(|(index, bound)| (bound, at(index))).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = number(upstream.sum(|counters| read(counters).1)) / unit;
    metric.encode_histogram::<NoLabels>(sum, count, &buckets, None)
}

#[allow(clippy::cast_precision_loss, reason = "for a graph; below 2^53 for centuries")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::metrics::Metrics;

    #[test]
    fn names_and_labels_are_those_of_the_contract() {
        let metrics = Metrics::new();
        let upstream = Arc::new(Upstream::new("signer-0", config::Pool::default()));
        metrics.upstreams.add(&upstream);
        for _ in 0..2 {
            let counters = upstream.counters();
            counters.moved(Phase::Closed, Phase::Healthy);
            counters.acquire_us.observe(120);
            counters.batch.observe(7);
        }
        let text = metrics.encode();
        for line in [
            "active_conns{enclave_id=\"signer-0\"} 2",
            "pool_conns_min{enclave_id=\"signer-0\"} 16",
            "conn_pool_state{enclave_id=\"signer-0\",state=\"Healthy\"} 2",
            "conn_pool_state{enclave_id=\"signer-0\",state=\"Degraded\"} 0",
            "conn_pool_state{enclave_id=\"signer-0\",state=\"Draining\"} 0",
            "grpc_stream_resets_total{enclave_id=\"signer-0\"} 0",
            "pool_exhausted_total{enclave_id=\"signer-0\"} 0",
            "boundary_crossings_total{enclave_id=\"signer-0\"} 2",
            "pool_acquire_latency_ms_bucket{le=\"0.1\",enclave_id=\"signer-0\"} 0",
            "pool_acquire_latency_ms_bucket{le=\"0.2\",enclave_id=\"signer-0\"} 2",
            "pool_acquire_latency_ms_bucket{le=\"500.0\",enclave_id=\"signer-0\"} 2",
            "pool_acquire_latency_ms_sum{enclave_id=\"signer-0\"} 0.24",
            "batch_size_hist_bucket{le=\"4.0\",enclave_id=\"signer-0\"} 0",
            "batch_size_hist_bucket{le=\"8.0\",enclave_id=\"signer-0\"} 2",
            "circuit_breaker_state{upstream=\"enclave\",enclave_id=\"signer-0\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("# TYPE circuit_breaker_state").count(), 1);
    }
}
