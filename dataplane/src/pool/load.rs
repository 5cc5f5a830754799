//! How much a connection carries, and whether it may be given more. On the control runtime, which has
//! several threads, requests and a drain meet here; `tests/races` explores how.

use super::sync::{AtomicBool, AtomicUsize, Ordering};

/// In the count of requests: the connection is on its way out, and what comes now is refused. One number
/// for both, so that nobody sees one without the other.
const LEAVING: usize = 1 << (usize::BITS - 1);

/// Requests on one connection, and whether it takes more.
#[derive(Debug)]
pub(crate) struct Load {
    count: AtomicUsize,
    /// It did not answer for a while although it should have.
    slow: AtomicBool,
}

// === impl Load ===

impl Load {
    /// Nothing in flight.
    pub(crate) fn new() -> Self {
        Self { count: AtomicUsize::new(0), slow: AtomicBool::new(false) }
    }

    /// Counts one more; false if it takes none.
    pub(crate) fn enter(&self) -> bool {
        if self.count.fetch_add(1, Ordering::AcqRel) & LEAVING == 0 {
            return true;
        }
        self.exit();
        false
    }

    /// Counts one less.
    pub(crate) fn exit(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// From now on it takes none; true if none is in flight.
    pub(crate) fn leave(&self) -> bool {
        self.count.fetch_or(LEAVING, Ordering::AcqRel) & !LEAVING == 0
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.count.load(Ordering::Relaxed) & !LEAVING
    }

    /// Whether others are to be preferred.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Says so.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }
}
