//! What stands before every request of every worker, and is shared by all of them.

use std::sync::Arc;

use crate::access::Access;
use crate::admission::Limiter;
use crate::audit::AuditTrail;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::metrics::Metrics;

/// Shared by every thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guards {
    /// Says who asks.
    pub(crate) authenticator: Arc<Authenticator>,
    /// Says who may do what.
    pub(crate) access: Arc<Access>,
    /// Bounds what is in flight.
    pub(crate) admission: Arc<Limiter>,
    /// Keeps who did what.
    pub(crate) audit: Arc<AuditTrail>,
}

// === impl Guards ===

impl Guards {
    /// As the settings say; what they count is shown in `metrics`.
    ///
    /// # Errors
    /// The audit's output cannot be opened.
    pub(crate) fn new(config: &Config, metrics: &Arc<Metrics>) -> std::io::Result<Self> {
        let admission = Arc::new(Limiter::new(&config.admission));
        metrics.limiters.show("ingress", Arc::clone(&admission));
        if config.authenticates() && config.access.0.is_empty() {
            tracing::warn!(
                "callers prove who they are and no rule of `access` lets them do anything"
            );
        }
        let access = Arc::new(Access::new(config));
        let authenticator = Authenticator::new(config, Arc::clone(&access), Arc::clone(metrics));
        let audit = Arc::new(AuditTrail::start(&config.audit, metrics)?);
        Ok(Self { authenticator: Arc::new(authenticator), access, admission, audit })
    }

    /// Takes other settings.
    pub(crate) fn settle(&self, config: &Config) {
        self.admission.set(&config.admission);
        self.authenticator.set(config);
        self.access.set(config);
    }
}
