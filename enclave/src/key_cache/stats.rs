//! What the cache counts, by keyspace: plain atomics that only grow, but for the waiters.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::names::Keyspace;

/// Keyspaces that are counted by name; all later ones are counted together.
pub const KEYSPACES_MAX: usize = 64;
/// Upper ends of the buckets of `rehydrate_latency_ms`, in microseconds; one more has no end.
pub const LATENCY_BOUNDS_US: [u64; 10] =
    [50, 100, 200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 50_000];

/// What is counted; most are named as the metrics are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Blobs opened for signatures and refreshes.
    Rehydrate,
    /// Of those, the ones that failed.
    RehydrateFail,
    /// Microseconds that they took.
    RehydrateLatencyUs,
    /// Workers that wait for another's opening now.
    SingleflightWaiters,
    /// Waits that ended without the key.
    SingleflightWaitTimeout,
    /// Plain keys that the prefetcher looked at.
    PrefetchScan,
    /// Refreshes that it queued.
    PrefetchTrigger,
    /// Refreshes that were due and found the queue full.
    PrefetchSkipped,
    /// Cached keys that were asked for without a valid DEK.
    HardExpiredRejections,
    /// The first of the buckets of latency, not cumulated; the others follow.
    LatencyBuckets,
}

/// Counters of a keyspace, buckets included.
pub const COUNTERS: usize = Counter::LatencyBuckets as usize + LATENCY_BOUNDS_US.len() + 1;

/// The counters of one keyspace, by [`Counter`].
#[derive(Debug, Default)]
pub struct Row([AtomicU64; COUNTERS]);

/// The counters of all keyspaces; without a name those of the ones that came too late for one.
#[derive(Debug, Default)]
pub struct Stats(Mutex<HashMap<Option<Keyspace>, Arc<Row>>>);

impl Row {
    pub(super) fn add(&self, counter: Counter, count: u64) {
        self.0[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn end_wait(&self, in_vain: bool) {
        self.0[Counter::SingleflightWaiters as usize].fetch_sub(1, Ordering::Relaxed);
        self.add(Counter::SingleflightWaitTimeout, in_vain.into());
    }

    pub(super) fn opened(&self, took: Duration, failed: bool) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.add(Counter::Rehydrate, 1);
        self.add(Counter::RehydrateFail, failed.into());
        self.add(Counter::RehydrateLatencyUs, took_us);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound_us| *bound_us < took_us);
        self.0[Counter::LatencyBuckets as usize + bucket].fetch_add(1, Ordering::Relaxed);
    }
}

impl Stats {
    pub(super) fn row(&self, keyspace: &Keyspace) -> Arc<Row> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = rows.len() < KEYSPACES_MAX;
        let named = Some(*keyspace).filter(|_| room || rows.contains_key(&Some(*keyspace)));
        Arc::clone(rows.entry(named).or_default())
    }

    /// All of them.
    pub fn snapshot(&self) -> Vec<(Option<Keyspace>, [u64; COUNTERS])> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |row: &Row| array::from_fn(|at| row.0[at].load(Ordering::Relaxed));
        rows.iter().map(|(keyspace, row)| (*keyspace, read(row))).collect()
    }
}

#[cfg(test)]
mod tests;
