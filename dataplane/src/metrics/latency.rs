//! A histogram of latencies that takes no lock: several are observed with every signature, by every
//! worker at once.

use std::array::from_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in microseconds. They resolve the 0.1-20 ms in which signatures fall, and show the tail
/// at the bounds of [`SECONDS_US`].
const BOUNDS_US: [u64; 22] = [
    100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000,
    50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
/// Upper bounds of what is shown in seconds (row G5), in microseconds. Each is one of [`BOUNDS_US`].
const SECONDS_US: [u64; 9] =
    [10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// A histogram in ms. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// The last one is of what lies above all bounds.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Several histograms as one in seconds, at one moment.
#[derive(Debug)]
pub(super) struct Seconds {
    /// The last one is of what lies above all bounds.
    buckets: [u64; SECONDS_US.len() + 1],
    sum_us: u64,
}

// === impl Seconds ===

impl Seconds {
    pub(super) fn of(all: &[Latency]) -> Self {
        let mut seconds = Self { buckets: [0; SECONDS_US.len() + 1], sum_us: 0 };
        for latency in all {
            let bounds = BOUNDS_US.into_iter().chain([u64::MAX]);
            for (bound, count) in bounds.zip(&latency.0.buckets) {
                let at = SECONDS_US.partition_point(|upper| *upper < bound);
                if let Some(bucket) = seconds.buckets.get_mut(at) {
                    *bucket += count.load(Ordering::Relaxed);
                }
            }
            seconds.sum_us += latency.0.sum_us.load(Ordering::Relaxed);
        }
        seconds
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    #[allow(clippy::cast_precision_loss, reason = "a metric")]
    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = SECONDS_US.map(|us| us as f64 / 1e6).into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(
            self.sum_us as f64 / 1e6,
            self.count(),
            &buckets,
            None,
        )
    }
}

// === impl Latency ===

impl Latency {
    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        // Rounded up, so that what is above a bound by less than a microsecond is not below it.
        let us = u64::try_from(took.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.0.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Arc::new(Counts {
            buckets: from_fn(|_| AtomicU64::new(0)),
            sum_us: AtomicU64::new(0),
        }))
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

#[allow(clippy::cast_precision_loss, reason = "a metric")]
impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = BOUNDS_US.map(|us| us as f64 / 1e3).into_iter().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum_ms = self.0.sum_us.load(Ordering::Relaxed) as f64 / 1e3;
        encoder.encode_histogram::<NoLabelSet>(sum_ms, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_above_all_is_counted() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("l", "help", latency.clone());
        for us in [1, 100, 101, 1_000_000, 20_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        latency.observe(Duration::from_nanos(100_001));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "l_sum 21000.303",
            "l_count 6",
            "l_bucket{le=\"0.1\"} 2",
            "l_bucket{le=\"0.2\"} 4",
            "l_bucket{le=\"10000.0\"} 5",
            "l_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn seconds_lose_nothing_since_their_bounds_are_bounds_before() {
        assert!(SECONDS_US.iter().all(|bound| BOUNDS_US.contains(bound)));
        let (fast, slow) = (Latency::default(), Latency::default());
        fast.observe(Duration::from_millis(10));
        fast.observe(Duration::from_millis(11));
        slow.observe(Duration::from_secs(10));
        slow.observe(Duration::from_mins(1));
        let seconds = Seconds::of(&[fast, slow]);
        assert_eq!(seconds.buckets, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((seconds.count(), seconds.sum_us), (4, 70_021_000));
    }
}
