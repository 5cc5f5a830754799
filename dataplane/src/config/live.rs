//! The settings in force. Whoever may follow a change reads them here each time; everybody else keeps
//! what it was started with.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::Config;

/// Settings that a reload replaces as a whole. Reading takes no lock.
#[derive(Debug)]
pub(crate) struct Live {
    config: ArcSwap<Config>,
    changed: watch::Sender<()>,
}

impl Live {
    /// Begins with `config`.
    pub(crate) fn new(config: Config) -> Self {
        Self { config: ArcSwap::from_pointee(config), changed: watch::Sender::new(()) }
    }

    /// What holds now. The guard is for the moment; it does not belong across an await.
    pub(crate) fn load(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// What holds now, to keep.
    pub(crate) fn snapshot(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Tells of changes from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Puts `config` into force.
    pub(crate) fn replace(&self, config: Config) {
        self.config.store(Arc::new(config));
        self.changed.send_replace(());
    }
}
