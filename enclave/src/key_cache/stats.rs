//! What the cache counts, by keyspace, in the words of the contract. Nothing is counted for a use
//! of a plain key, so that signatures of one keyspace do not meet here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sigil_enclave_protocol::v1::KeyspaceStats;

use crate::names::Keyspace;

/// Keyspaces that are counted by name; all later ones are counted together.
pub const KEYSPACES_MAX: usize = 64;
/// Upper ends of the buckets of `rehydrate_latency_ms`, in microseconds; one more has no end.
pub const LATENCY_BOUNDS_US: [u64; 10] =
    [50, 100, 200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 50_000];

/// The counters of one keyspace.
#[derive(Debug)]
pub struct Row(Mutex<KeyspaceStats>);

/// The counters of all keyspaces; without a name those of the ones that have none.
#[derive(Debug, Default)]
pub struct Stats(Mutex<HashMap<String, Arc<Row>>>);

impl Row {
    pub(super) fn count(&self, change: impl FnOnce(&mut KeyspaceStats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn opened(&self, took: Duration, failed: bool) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound_us| *bound_us < took_us);
        self.count(|stats| {
            stats.rehydrated += 1;
            stats.rehydrate_failed += u64::from(failed);
            let latency = stats.rehydrate_latency_us.get_or_insert_default();
            latency.upper_bounds = LATENCY_BOUNDS_US.to_vec();
            latency.counts.resize(LATENCY_BOUNDS_US.len() + 1, 0);
            latency.counts[bucket] += 1;
            latency.sum = latency.sum.saturating_add(took_us);
        });
    }
}

impl Stats {
    /// A keyspace is counted by name once a key of it was opened: its DEK was unlocked, so a rule
    /// of the pins matches it. Names that somebody makes up take no places.
    pub(super) fn row(&self, keyspace: &Keyspace, opened: bool) -> Arc<Row> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = opened && rows.len() < KEYSPACES_MAX;
        let named = free || rows.contains_key(keyspace.as_str());
        let name = if named { keyspace.as_str() } else { "" };
        let empty = || KeyspaceStats { keyspace: name.to_owned(), ..KeyspaceStats::default() };
        let row = rows.entry(name.to_owned());
        Arc::clone(row.or_insert_with(|| Arc::new(Row(Mutex::new(empty())))))
    }

    /// All of them.
    pub fn snapshot(&self) -> Vec<KeyspaceStats> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |row: &Row| row.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rows.values().map(|row| read(row)).collect()
    }
}

#[cfg(test)]
mod tests;
