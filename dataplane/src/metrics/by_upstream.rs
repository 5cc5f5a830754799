//! What every upstream has alike (row G5), by the label `upstream`: `ingress` is this process as its
//! callers see it. For `ingress` and `enclave` a scrape adds up what the signing path counts anyway.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use tokio::time::Instant;

use super::latency::{Latency, Seconds};
use super::{Connected, Upstreams};

/// Upstreams that are called seldom enough to be counted call by call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callee {
    /// The key management service, through the enclave's tunnel.
    Kms,
    /// The database of the shared store.
    Postgres,
    /// The API server.
    Kubernetes,
    /// Whatever gives AWS credentials.
    Credentials,
    /// Other dataplanes.
    Peer,
}

/// Calls of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    latency: Latency,
    errors: Counter,
    connections: Gauge,
    is_used: AtomicBool,
}

/// One call under way. Dropped without an end it counts as an error: nobody waits for it any longer.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<Calls>,
    started: Instant,
    is_due: bool,
}

/// Everything that is shown by upstream. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct ByUpstream {
    pub(super) ingress: Ingress,
    pub(super) enclave: Enclave,
    calls: [Arc<Calls>; Callee::ALL.len()],
}

/// Our own callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Ingress {
    pub(super) answered: Vec<Counter>,
    /// Of `answered`, those that failed here.
    pub(super) failed: Vec<Counter>,
    pub(super) latency: Vec<Latency>,
    pub(super) connections: Gauge,
}

/// Signatures and keys asked of enclaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Enclave {
    pub(super) latency: Vec<Latency>,
    pub(super) failed: Counter,
    pub(super) upstreams: Upstreams,
}

type Number = fn(&Row) -> u64;

/// One upstream at one moment.
struct Row {
    upstream: &'static str,
    requests: u64,
    errors: u64,
    latency: Seconds,
    /// Absent where nobody here keeps connections.
    connections: Option<i64>,
}

// === impl Callee ===

impl Callee {
    const ALL: [Self; 5] =
        [Self::Kms, Self::Postgres, Self::Kubernetes, Self::Credentials, Self::Peer];

    fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Postgres => "postgres",
            Self::Kubernetes => "kubernetes",
            Self::Credentials => "credentials",
            Self::Peer => "peer",
        }
    }

    /// The clients of the others keep theirs to themselves.
    fn shows_connections(self) -> bool {
        matches!(self, Self::Kms | Self::Postgres | Self::Peer)
    }
}

// === impl Calls ===

impl Calls {
    /// A call begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        Call { calls: Arc::clone(self), started: Instant::now(), is_due: true }
    }

    /// Counts a connection for as long as what it gives is kept.
    pub(crate) fn connected(&self) -> Connected {
        self.is_used.store(true, Ordering::Relaxed);
        Connected::of(&self.connections)
    }
}

#[cfg(test)]
impl Calls {
    /// Requests, and those that failed.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (Seconds::of(std::slice::from_ref(&self.latency)).count(), self.errors.get())
    }
}

// === impl Call ===

impl Call {
    /// It was answered; `well`: not with a failure of the upstream.
    pub(crate) fn end(mut self, well: bool) {
        self.count(well);
    }

    /// It turned out to be none.
    pub(crate) fn forget(mut self) {
        self.is_due = false;
    }

    fn count(&mut self, well: bool) {
        self.is_due = false;
        self.calls.latency.observe(self.started.elapsed());
        if !well {
            self.calls.errors.inc();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_due {
            self.count(false);
        }
    }
}

// === impl ByUpstream ===

impl ByUpstream {
    /// The counters of one upstream, which is shown from now on.
    pub(super) fn calls(&self, callee: Callee) -> Arc<Calls> {
        let calls = self.unused(callee);
        calls.is_used.store(true, Ordering::Relaxed);
        calls
    }

    /// The same, shown only once it was connected to.
    pub(super) fn unused(&self, callee: Callee) -> Arc<Calls> {
        self.calls.get(callee as usize).cloned().unwrap_or_default()
    }

    fn rows(&self) -> Vec<Row> {
        let sum = |counters: &[Counter]| counters.iter().map(Counter::get).sum();
        let latency = Seconds::of(&self.enclave.latency);
        let mut rows = vec![
            Row {
                upstream: "ingress",
                requests: sum(&self.ingress.answered),
                errors: sum(&self.ingress.failed),
                latency: Seconds::of(&self.ingress.latency),
                connections: Some(self.ingress.connections.get()),
            },
            Row {
                upstream: "enclave",
                requests: latency.count(),
                errors: self.enclave.failed.get(),
                latency,
                connections: Some(self.enclave.upstreams.healthy()),
            },
        ];
        for (callee, calls) in Callee::ALL.into_iter().zip(&self.calls) {
            if !calls.is_used.load(Ordering::Relaxed) {
                continue;
            }
            let latency = Seconds::of(std::slice::from_ref(&calls.latency));
            rows.push(Row {
                upstream: callee.as_str(),
                requests: latency.count(),
                errors: calls.errors.get(),
                latency,
                connections: callee.shows_connections().then(|| calls.connections.get()),
            });
        }
        rows
    }
}

impl Collector for ByUpstream {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let rows = self.rows();
        let counters: [(_, _, Number); 2] = [
            ("requests", "Requests by upstream; ingress: answers to our callers", |row| {
                row.requests
            }),
            ("errors", "Requests that the upstream failed; ingress: 5xx and 429", |row| row.errors),
        ];
        for (name, help, read) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in &rows {
                let labels = [("upstream", row.upstream)];
                let metric = family.encode_family(&labels)?;
                ConstCounter::new(read(row)).encode(metric)?;
            }
        }
        let (name, help) = ("request_latency_seconds", "From a request to its answer, by upstream");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for row in &rows {
            let labels = [("upstream", row.upstream)];
            row.latency.encode(family.encode_family(&labels)?)?;
        }
        let (name, help) = ("active_connections", "Connections that are open, by upstream");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for row in &rows {
            let Some(connections) = row.connections else { continue };
            let labels = [("upstream", row.upstream)];
            let metric = family.encode_family(&labels)?;
            ConstGauge::new(connections).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Method, Metrics, Phase};

    #[test]
    fn every_callee_has_its_own_place() {
        for (index, callee) in Callee::ALL.into_iter().enumerate() {
            assert_eq!(callee as usize, index, "{callee:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_contract_and_every_one_has_its_upstream() {
        let metrics = Metrics::new();
        for (status, method) in [(200, Method::Sign), (503, Method::Sign), (429, Method::GetKey)] {
            metrics.answered(method, status);
            metrics.phase(method, Phase::Total, Duration::from_millis(40));
        }
        metrics.answered(Method::Create, 400);
        metrics.phase(Method::Create, Phase::Total, Duration::from_secs(11));
        metrics.phase(Method::Sign, Phase::Enclave, Duration::from_millis(1));
        metrics.enclave_failed();
        let kms = metrics.calls(Callee::Kms);
        let both = (metrics.connected(), kms.connected());
        kms.begin().end(true);
        drop(kms.begin());
        kms.begin().forget();
        metrics.breaker_state.get_or_create(&vec![("upstream", "kms".to_owned())]).set(2);
        let text = metrics.encode();
        for line in [
            "requests_total{upstream=\"ingress\"} 4",
            "requests_total{upstream=\"enclave\"} 1",
            "requests_total{upstream=\"kms\"} 2",
            "errors_total{upstream=\"ingress\"} 2",
            "errors_total{upstream=\"enclave\"} 1",
            "errors_total{upstream=\"kms\"} 1",
            "request_latency_seconds_count{upstream=\"ingress\"} 4",
            "request_latency_seconds_bucket{le=\"0.01\",upstream=\"ingress\"} 0",
            "request_latency_seconds_bucket{le=\"0.05\",upstream=\"ingress\"} 3",
            "request_latency_seconds_bucket{le=\"10.0\",upstream=\"ingress\"} 3",
            "request_latency_seconds_bucket{le=\"+Inf\",upstream=\"ingress\"} 4",
            "request_latency_seconds_bucket{le=\"0.01\",upstream=\"enclave\"} 1",
            "active_connections{upstream=\"ingress\"} 1",
            "active_connections{upstream=\"enclave\"} 0",
            "active_connections{upstream=\"kms\"} 1",
            "circuit_breaker_state{upstream=\"kms\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let bounds = ["0.01", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"];
        let shown: Vec<_> = text
            .lines()
            .filter(|line| line.contains("latency_seconds_bucket") && line.contains("\"kms\""))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert_eq!(shown, bounds);
        assert!(!text.contains("upstream=\"postgres\""), "nobody calls it here");
        drop(both);
        assert!(metrics.encode().contains("active_connections{upstream=\"kms\"} 0"));
    }
}
