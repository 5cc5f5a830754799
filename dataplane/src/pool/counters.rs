//! What one worker's pool counts. Each worker has its own, so that counting costs no more than an
//! addition; a scrape adds them up.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::connection::Phase;

/// Microseconds; 50 us to 500 ms (row S2f).
pub(super) const ACQUIRE_BOUNDS_US: [u64; 10] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000, 500_000];
/// Digests of a message.
pub(super) const BATCH_BOUNDS: [u64; 7] = [1, 2, 4, 8, 16, 24, 32];
/// One request of so many is timed: two looks at the clock cost more than all the rest of a choice.
const TIMED_EVERY: u64 = 16;

/// A histogram of whole numbers with the given upper bounds and one more.
#[derive(Debug)]
pub(super) struct Buckets<const N: usize> {
    bounds: [u64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

/// What one pool counts. Aligned, so that no two workers share a line of their caches.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Sign streams that ended although nobody wanted it.
    pub(super) resets: AtomicU64,
    /// Requests that found no connection, or a full one.
    pub(super) exhausted: AtomicU64,
    /// From asking for a connection to leaving in a message, microseconds.
    pub(super) acquire_us: Buckets<10>,
    /// Digests of a message; their number is that of the messages.
    pub(super) batch: Buckets<7>,
    phases: [AtomicI64; 4],
    asked: AtomicU64,
}

// === impl Buckets ===

impl<const N: usize> Buckets<N> {
    fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn observe(&self, value: u64) {
        let fitting = self.bounds.iter().position(|bound| value <= *bound);
        let count = fitting.and_then(|at| self.counts.get(at)).unwrap_or(&self.above);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts by bound, the last without one, and the sum of all values.
    pub(super) fn read(&self) -> (Vec<u64>, u64) {
        let counts = self.counts.iter().chain([&self.above]);
        let counts = counts.map(|count| count.load(Ordering::Relaxed)).collect();
        (counts, self.sum.load(Ordering::Relaxed))
    }
}

// === impl Counters ===

impl Default for Counters {
    fn default() -> Self {
        Self {
            resets: AtomicU64::new(0),
            exhausted: AtomicU64::new(0),
            acquire_us: Buckets::new(ACQUIRE_BOUNDS_US),
            batch: Buckets::new(BATCH_BOUNDS),
            phases: std::array::from_fn(|_| AtomicI64::new(0)),
            asked: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// A connection went from one phase to another; `Closed` is none.
    pub(super) fn moved(&self, from: Phase, to: Phase) {
        for (phase, by) in [(from, -1), (to, 1)] {
            if let Some(count) = place(phase).and_then(|at| self.phases.get(at)) {
                count.fetch_add(by, Ordering::Relaxed);
            }
        }
    }

    /// Connections in that phase.
    pub(super) fn count(&self, phase: Phase) -> i64 {
        let count = place(phase).and_then(|at| self.phases.get(at));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Whether this request is one of those that are timed.
    pub(super) fn times_this(&self) -> bool {
        // Not one step: a pool is one thread's, and which request is timed does not matter.
        let asked = self.asked.load(Ordering::Relaxed);
        self.asked.store(asked.wrapping_add(1), Ordering::Relaxed);
        asked.is_multiple_of(TIMED_EVERY)
    }
}

fn place(phase: Phase) -> Option<usize> {
    Phase::ALL.iter().position(|known| *known == phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_first_bucket_that_holds_them() {
        let counters = Counters::default();
        for value in [0, 1, 2, 3, 32, 33] {
            counters.batch.observe(value);
        }
        assert_eq!(counters.batch.read(), (vec![2, 1, 1, 0, 0, 0, 1, 1], 71));
    }

    #[test]
    fn a_connection_is_in_one_phase_and_a_closed_one_in_none() {
        let counters = Counters::default();
        counters.moved(Phase::Closed, Phase::Connecting);
        counters.moved(Phase::Connecting, Phase::Healthy);
        assert_eq!(Phase::ALL.map(|phase| counters.count(phase)), [0, 1, 0, 0]);
        counters.moved(Phase::Healthy, Phase::Closed);
        assert_eq!(Phase::ALL.map(|phase| counters.count(phase)), [0; 4]);
    }

    #[test]
    fn one_in_sixteen_is_timed_the_first_too() {
        let counters = Counters::default();
        let timed: Vec<_> = (0..33).filter(|_| counters.times_this()).collect();
        assert_eq!(timed, [0, 16, 32]);
    }
}
