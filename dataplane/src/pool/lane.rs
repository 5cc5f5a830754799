//! One open connection with its stream, as requests see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Boot;
use super::lanes::Carries;
use super::load::Load;
use super::session::Client;
use super::stream::Job;

/// A connection that takes requests.
pub(super) struct Lane {
    pub(super) queue: mpsc::Sender<Job>,
    pub(super) client: Client,
    pub(super) worker_index: u16,
    pub(super) boot: Arc<Boot>,
    pub(super) opened: Instant,
    pub(super) load: Arc<Load>,
    /// Messages that the enclave has answered; written by the stream alone.
    pub(super) answered: Arc<AtomicU64>,
    /// What it was at the last look.
    seen: AtomicU64,
}

/// Counts a request in flight until dropped.
pub(super) struct Permit(Arc<Load>);

// === impl Lane ===

impl Lane {
    pub(super) fn new(
        (client, worker_index): (Client, u16),
        queue: mpsc::Sender<Job>,
        boot: Arc<Boot>,
    ) -> Self {
        Self {
            queue,
            client,
            worker_index,
            boot,
            opened: Instant::now(),
            load: Arc::new(Load::new()),
            answered: Arc::default(),
            seen: AtomicU64::new(0),
        }
    }

    /// Slow is what has something in flight and has answered nothing since the last look.
    pub(super) fn look(&self) {
        let answered = self.answered.load(Ordering::Relaxed);
        let stands = self.seen.swap(answered, Ordering::Relaxed) == answered;
        self.load.set_slow(stands && self.load.in_flight() > 0);
    }
}

impl Carries for Lane {
    fn worker_index(&self) -> u16 {
        self.worker_index
    }

    fn load(&self) -> &Load {
        &self.load
    }
}

// === impl Permit ===

impl Permit {
    /// None if the connection is on its way out.
    pub(super) fn new(lane: &Lane) -> Option<Self> {
        lane.load.enter().then(|| Self(Arc::clone(&lane.load)))
    }

    /// On no connection.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        let load = Arc::new(Load::new());
        assert!(load.enter());
        Self(load)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.exit();
    }
}
