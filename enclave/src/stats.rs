//! What a worker counts. Written by its own thread, read by whoever asks for `Stats`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::RuntimeMetrics;

/// Upper ends of the buckets of `sign_cpu_us`; one more has no end.
pub const SIGN_CPU_BOUNDS_US: [u64; 10] = [20, 30, 40, 50, 75, 100, 150, 200, 300, 1_000];
/// One batch in so many is timed on the thread's clock, which costs two system calls.
pub(crate) const SAMPLE_EVERY_BATCHES: u64 = 16;

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Of the worker's own runtime, which measures how long it is not idle.
    pub runtime: OnceLock<RuntimeMetrics>,
    /// Signatures made.
    pub signed: Count,
    /// Items refused because the queue was full.
    pub refused: Count,
    /// Items that waited, times microseconds.
    pub queued_item_us: Count,
    /// Items received and not yet taken up.
    pub queued: Count,
    /// Streams that have such items.
    pub queueing_streams: Count,
    /// CPU time of a signature, in the buckets of [`SIGN_CPU_BOUNDS_US`].
    pub sign_cpu: [Count; SIGN_CPU_BOUNDS_US.len() + 1],
    /// Sum of what is in the buckets.
    pub sign_cpu_us: Count,
    batches: Count,
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes away what was added.
    pub fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

impl WorkerStats {
    /// Runs the signing of `items`, and counts and times it.
    pub fn batch<T>(&self, items: u64, sign: impl FnOnce() -> T) -> T {
        self.batches.add(1);
        let sampled = self.batches.get().is_multiple_of(SAMPLE_EVERY_BATCHES);
        let (since, cpu_since) = (Instant::now(), sampled.then(thread_cpu));
        let done = sign();
        if let Some(cpu_since) = cpu_since.filter(|_| items > 0) {
            let each_us = micros(thread_cpu().saturating_sub(cpu_since)) / items;
            let bucket = SIGN_CPU_BOUNDS_US.partition_point(|bound_us| *bound_us < each_us);
            self.sign_cpu[bucket].add(1);
            self.sign_cpu_us.add(each_us);
        }
        // Of this batch one is being signed at a time, and half of the others wait on average.
        let waiting = self.queued.get() + items.saturating_sub(1) / 2;
        self.queued_item_us.add(waiting.saturating_mul(micros(since.elapsed())));
        done
    }

    /// Microseconds in which the worker was not idle.
    pub fn busy_us(&self) -> u64 {
        self.runtime.get().map_or(0, |runtime| micros(runtime.worker_total_busy_duration(0)))
    }
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_batch_in_sixteen_is_timed_and_every_one_is_counted_as_queue() {
        let stats = WorkerStats::default();
        stats.queued.add(5);
        for _ in 0..32 {
            let made = stats.batch(3, || {
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(200) {}
                7
            });
            assert_eq!(made, 7);
        }
        assert_eq!(stats.sign_cpu.iter().map(Count::get).sum::<u64>(), 2);
        assert!(stats.sign_cpu_us.get() <= 2 * 1_000_000, "CPU time of one signature each");
        // 5 and one of this batch waited for 32 x 200 us at least.
        assert!(stats.queued_item_us.get() >= 32 * 200 * 6, "{}", stats.queued_item_us.get());
    }

    #[test]
    fn the_sum_is_that_of_the_buckets() {
        let stats = WorkerStats::default();
        for _ in 0..SAMPLE_EVERY_BATCHES {
            stats.batch(0, || ());
        }
        assert_eq!(stats.sign_cpu.iter().map(Count::get).sum::<u64>(), 0, "nothing was signed");
    }
}
