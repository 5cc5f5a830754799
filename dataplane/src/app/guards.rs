//! What stands before every request of every worker, and is shared by all of them.

use std::sync::Arc;

use crate::admission::Limiter;
use crate::config::Config;
use crate::metrics::Metrics;

/// Shared by every thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guards {
    /// Bounds what is in flight.
    pub(crate) admission: Arc<Limiter>,
}

// === impl Guards ===

impl Guards {
    /// As the settings say; what they count is shown in `metrics`.
    pub(crate) fn new(config: &Config, metrics: &Metrics) -> Self {
        let admission = Arc::new(Limiter::new(&config.admission));
        metrics.limiters.show("ingress", Arc::clone(&admission));
        Self { admission }
    }

    /// Takes other settings.
    pub(crate) fn settle(&self, config: &Config) {
        self.admission.set(&config.admission);
    }
}
