//! The enclave's own counters, as it last told them, under the names of `requirements.md`. They are
//! asked for with its health and kept as they came; a scrape only writes them down.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use sigil_enclave_protocol::v1::{Histogram, KeyspaceStats, StatsReply};

/// The label for what the enclave does not count by name.
const OTHER_KEYSPACES: &str = "other";
/// Microseconds of a millisecond.
const US_A_MS: f64 = 1_000.0;

/// What one boot of the enclave said last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnclaveMetrics(Arc<Mutex<Option<Seen>>>);

#[derive(Debug)]
struct Seen {
    said: StatsReply,
    /// By worker: share of the time since it was asked before in which it was busy.
    busy_ratio: Vec<f64>,
    /// Items that waited in all queues, on average since then.
    queue_depth: f64,
}

// === impl EnclaveMetrics ===

impl EnclaveMetrics {
    /// Takes an answer. What is told as a sum becomes a mean over the time since the last one.
    pub(crate) fn observed(&self, said: StatsReply) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Sums that shrink are another boot's.
        let before = seen.take().map(|seen| seen.said);
        let before = before.filter(|before| before.uptime_us < said.uptime_us).unwrap_or_default();
        let elapsed_us = number(said.uptime_us - before.uptime_us).max(1.0);
        let grown = |index: usize, of: fn(&StatsReply, usize) -> u64| {
            number(of(&said, index).saturating_sub(of(&before, index))) / elapsed_us
        };
        let busy =
            |index| grown(index, |said, index| said.workers.get(index).map_or(0, |w| w.busy_us));
        let depth = |index| {
            grown(index, |said, index| said.workers.get(index).map_or(0, |w| w.queued_item_us))
        };
        let workers = 0..said.workers.len();
        let busy_ratio = workers.clone().map(|index| busy(index).min(1.0)).collect();
        let queue_depth = workers.map(depth).sum();
        *seen = Some(Seen { said, busy_ratio, queue_depth });
    }

    /// There is no enclave, so nothing is told.
    pub(crate) fn gone(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Collector for EnclaveMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map_or(Ok(()), |seen| seen.encode(&mut encoder))
    }
}

// === impl Seen ===

impl Seen {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        self.engine(encoder)?;
        self.cache(encoder)
    }

    fn engine(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let said = &self.said;
        let gauges = [
            ("engine_q_depth", "Items that waited in the enclave, on average", self.queue_depth),
            (
                "engine_init_ms",
                "Making, blinding and testing the signing contexts",
                number(said.engine_init_us) / US_A_MS,
            ),
            ("enclave_secrets", "Secrets in the enclave's memory", number(said.secrets)),
            ("enclave_secrets_max", "Room for them", number(said.secrets_max)),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let help = "Share of the time in which a worker was not idle";
        let mut family =
            encoder.encode_descriptor("worker_busy_ratio", help, None, MetricType::Gauge)?;
        for (worker, ratio) in self.busy_ratio.iter().enumerate() {
            family.encode_family(&[("worker", worker.to_string())])?.encode_gauge(ratio)?;
        }
        let sum = |of: fn(&sigil_enclave_protocol::v1::WorkerStats) -> u64| {
            said.workers.iter().map(of).sum::<u64>()
        };
        let counters = [
            ("engine_signed", "Signatures made", sum(|worker| worker.signed)),
            ("engine_refused", "Items refused by a full queue", sum(|worker| worker.refused)),
        ];
        for (name, help, count) in counters {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabels, _, f64>(&count, None)?;
        }
        let cpu = said.workers.iter().filter_map(|worker| worker.sign_cpu_us.as_ref());
        let help = "CPU time of a signature with its checks";
        let mut metric =
            encoder.encode_descriptor("sign_cpu_us", help, None, MetricType::Histogram)?;
        encode_histogram(&mut metric, &added(cpu), 1.0)
    }

    fn cache(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let said = &self.said;
        let help = "Cached keys by state";
        let mut family =
            encoder.encode_descriptor("key_cache_state", help, None, MetricType::Gauge)?;
        for (state, keys) in
            [("warm", said.keys_warm), ("cool", said.keys_cool), ("invalid", said.keys_invalid)]
        {
            family.encode_family(&[("state", state)])?.encode_gauge(&number(keys))?;
        }
        for (name, help, count) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for stats in &said.keyspaces {
                let labels = [("keyspace", keyspace(stats))];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabels, _, f64>(&count(stats), None)?;
            }
        }
        let (name, help) = ("singleflight_waiters", "Workers that wait for another's opening");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for stats in &said.keyspaces {
            let labels = [("keyspace", keyspace(stats))];
            family.encode_family(&labels)?.encode_gauge(&number(stats.singleflight_waiters))?;
        }
        let (name, help) = ("rehydrate_latency_ms", "Opening a sealed key");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for stats in &said.keyspaces {
            let labels = [("keyspace", keyspace(stats))];
            let mut metric = family.encode_family(&labels)?;
            encode_histogram(&mut metric, &added(stats.rehydrate_latency_us.iter()), US_A_MS)?;
        }
        Ok(())
    }
}

type NoLabels = [(&'static str, &'static str); 0];
type OfKeyspace = fn(&KeyspaceStats) -> u64;

const COUNTERS: [(&str, &str, OfKeyspace); 7] = [
    ("rehydrate", "Sealed keys opened", |stats| stats.rehydrated),
    ("rehydrate_fail", "Of those, the ones that failed", |stats| stats.rehydrate_failed),
    ("singleflight_wait_timeout", "Waits that ended without the key", |stats| {
        stats.singleflight_wait_timeouts
    }),
    ("prefetch_scan", "Plain keys that the prefetcher looked at", |stats| stats.prefetch_scanned),
    ("prefetch_trigger", "Refreshes that it started", |stats| stats.prefetch_triggered),
    ("prefetch_skipped", "Refreshes that found no room", |stats| stats.prefetch_skipped),
    ("hard_expired_rejections", "Keys asked for after the end of their DEK", |stats| {
        stats.hard_expired_rejections
    }),
];

fn keyspace(stats: &KeyspaceStats) -> &str {
    if stats.keyspace.is_empty() { OTHER_KEYSPACES } else { &stats.keyspace }
}

/// The sum of histograms with the same bounds.
fn added<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Histogram {
    let mut sum = Histogram::default();
    for histogram in histograms {
        sum.upper_bounds.clone_from(&histogram.upper_bounds);
        sum.counts.resize(histogram.counts.len().max(sum.counts.len()), 0);
        for (total, count) in sum.counts.iter_mut().zip(&histogram.counts) {
            *total += count;
        }
        sum.sum += histogram.sum;
    }
    sum
}

/// `unit`: how many of the enclave's units are one of the metric's.
fn encode_histogram(
    metric: &mut MetricEncoder<'_>,
    histogram: &Histogram,
    unit: f64,
) -> Result<(), Error> {
    let bounds = histogram.upper_bounds.iter().map(|bound| number(*bound) / unit);
    let bounds = bounds.chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(histogram.counts.iter().copied()).collect();
    let sum = number(histogram.sum) / unit;
    metric.encode_histogram::<NoLabels>(sum, histogram.counts.iter().sum(), &buckets, None)
}

#[allow(clippy::cast_precision_loss, reason = "for a graph; below 2^53 for centuries")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use sigil_enclave_protocol::v1::WorkerStats;

    use super::*;

    fn scrape(metrics: &EnclaveMetrics) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn worker(seconds: u64) -> WorkerStats {
        WorkerStats {
            busy_us: 250_000 * seconds,
            signed: 100 * seconds,
            refused: seconds,
            queued_item_us: 500_000 * seconds,
            sign_cpu_us: Some(Histogram {
                upper_bounds: vec![40, 300],
                counts: vec![2, 1, 0],
                sum: 170,
            }),
        }
    }

    /// As after `seconds` of the same load.
    fn stats(seconds: u64) -> StatsReply {
        let keyspace = |name: &str| KeyspaceStats {
            keyspace: name.to_owned(),
            rehydrated: 7,
            rehydrate_failed: 1,
            rehydrate_latency_us: Some(Histogram {
                upper_bounds: vec![100, 2_000],
                counts: vec![5, 1, 1],
                sum: 6_500,
            }),
            singleflight_waiters: 2,
            singleflight_wait_timeouts: 3,
            prefetch_scanned: 50,
            prefetch_triggered: 5,
            prefetch_skipped: 4,
            hard_expired_rejections: 6,
        };
        StatsReply {
            uptime_us: 1_000_000 * seconds,
            engine_init_us: 1_500,
            secrets: 9,
            secrets_max: 100,
            keys_warm: 4,
            keys_cool: 5,
            keys_invalid: 6,
            workers: vec![worker(seconds), worker(2 * seconds)],
            keyspaces: vec![keyspace("default"), keyspace("")],
            ..StatsReply::default()
        }
    }

    #[test]
    fn names_and_numbers_are_those_of_the_contract() {
        let metrics = EnclaveMetrics::default();
        metrics.observed(stats(10));
        let text = scrape(&metrics);
        for line in [
            "engine_init_ms 1.5",
            "engine_q_depth 1.5",
            "worker_busy_ratio{worker=\"0\"} 0.25",
            "worker_busy_ratio{worker=\"1\"} 0.5",
            "engine_signed_total 3000",
            "engine_refused_total 30",
            "sign_cpu_us_bucket{le=\"40.0\"} 4",
            "sign_cpu_us_bucket{le=\"300.0\"} 6",
            "sign_cpu_us_bucket{le=\"+Inf\"} 6",
            "sign_cpu_us_sum 340.0",
            "sign_cpu_us_count 6",
            "key_cache_state{state=\"warm\"} 4",
            "key_cache_state{state=\"cool\"} 5",
            "key_cache_state{state=\"invalid\"} 6",
            "rehydrate_total{keyspace=\"default\"} 7",
            "rehydrate_total{keyspace=\"other\"} 7",
            "rehydrate_fail_total{keyspace=\"default\"} 1",
            "rehydrate_latency_ms_bucket{le=\"0.1\",keyspace=\"default\"} 5",
            "rehydrate_latency_ms_bucket{le=\"2.0\",keyspace=\"default\"} 6",
            "rehydrate_latency_ms_bucket{le=\"+Inf\",keyspace=\"default\"} 7",
            "rehydrate_latency_ms_sum{keyspace=\"default\"} 6.5",
            "singleflight_waiters{keyspace=\"default\"} 2",
            "singleflight_wait_timeout_total{keyspace=\"default\"} 3",
            "prefetch_scan_total{keyspace=\"default\"} 50",
            "prefetch_trigger_total{keyspace=\"default\"} 5",
            "prefetch_skipped_total{keyspace=\"default\"} 4",
            "hard_expired_rejections_total{keyspace=\"default\"} 6",
            "enclave_secrets 9",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn means_are_over_the_time_since_the_last_answer_and_of_one_boot() {
        let metrics = EnclaveMetrics::default();
        metrics.observed(stats(10));
        let idle = StatsReply { uptime_us: 20_000_000, ..stats(10) };
        metrics.observed(idle);
        assert!(scrape(&metrics).contains("engine_q_depth 0"), "idle for ten seconds");
        metrics.observed(stats(2));
        assert!(scrape(&metrics).contains("engine_q_depth 1.5"), "another boot starts anew");
        metrics.gone();
        assert!(!scrape(&metrics).contains("engine_"), "no enclave says nothing");
    }
}
