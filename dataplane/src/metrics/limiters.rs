//! What limiters count, written down when somebody scrapes: a request on its way only touches the
//! limiter's own word.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::admission::Limiter;

/// Limiters by what they stand before. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limiters(Arc<Mutex<Vec<Shown>>>);

type Shown = (&'static str, Arc<Limiter>);
type Value = fn(&Limiter) -> Option<u32>;

// === impl Limiters ===

impl Limiters {
    /// From now on this one is shown.
    pub(crate) fn show(&self, upstream: &'static str, limiter: Arc<Limiter>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((upstream, limiter));
    }
}

impl Collector for Limiters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gauges: [(&str, &str, Value); 3] = [
            ("limiter_free_slots", "Places that are free; absent without a limit", Limiter::free),
            ("limiter_in_flight", "Requests that hold a place", |it| Some(it.in_flight())),
            ("limiter_waiting", "Requests that wait for a place", |it| Some(it.waiting())),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (upstream, limiter) in limiters.iter() {
                let Some(value) = value(limiter) else { continue };
                let labels = [("upstream", *upstream)];
                ConstGauge::new(i64::from(value)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
