//! What the store says of itself, written down when somebody scrapes.

use std::fmt::{self, Debug, Error};
use std::sync::{Arc, OnceLock, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::status::StatusWriter;
use crate::store::Store;

/// The store to ask, as long as it is open. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct StoreMetrics(Arc<OnceLock<Asked>>);

struct Asked {
    store: Weak<dyn Store>,
    status: StatusWriter,
}

// === impl StoreMetrics ===

impl StoreMetrics {
    /// From now on `store` is asked, and `status` for whether it is durable.
    pub(crate) fn show(&self, store: &Arc<dyn Store>, status: StatusWriter) {
        // There is one store; the first stays.
        let _ = self.0.set(Asked { store: Arc::downgrade(store), status });
    }
}

impl Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(asked) = self.0.get() else { return Ok(()) };
        let help =
            "1 while what is acknowledged survives a crash and the last look or write worked";
        let durable = ConstGauge::new(i64::from(asked.status.snapshot().store_durable));
        let kind = MetricType::Gauge;
        durable.encode(encoder.encode_descriptor("store_durable", help, None, kind)?)?;
        let connections = asked.store.upgrade().and_then(|store| store.connections());
        let Some(connections) = connections else { return Ok(()) };
        let help = "Connections to the store's server";
        let mut family = encoder.encode_descriptor("store_connections", help, None, kind)?;
        for (state, count) in [("in_use", connections.in_use), ("idle", connections.idle)] {
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "Statements that got no connection";
        let kind = MetricType::Counter;
        let failed = ConstCounter::new(connections.acquire_failures);
        failed.encode(encoder.encode_descriptor("store_acquire_fail", help, None, kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::store::{EmbeddedStore, StoreStatus};

    #[test]
    fn durability_is_shown_and_connections_only_where_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(folder.path(), |_| {}).unwrap());
        let (metrics, status) = (Metrics::new(), StatusWriter::new(&[]));
        metrics.store.show(&store, status.clone());
        for durable in [true, false] {
            status.store(StoreStatus { durable, ..StoreStatus::default() });
            let text = metrics.encode();
            assert!(text.contains(&format!("\nstore_durable {}\n", i64::from(durable))), "{text}");
            assert!(!text.contains("store_connections"));
        }
    }
}
