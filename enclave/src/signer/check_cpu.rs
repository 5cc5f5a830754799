//! CPU time of the checks, sampled, so that it can be stated apart. No build leaves it out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};

/// One batch in so many is sampled: two readings of a clock cost about a microsecond.
const SAMPLE_EVERY_BATCHES: u64 = 16;

/// Of all signers of this process.
pub static CHECK_CPU: CheckCpu =
    CheckCpu { batches: AtomicU64::new(0), signatures: AtomicU64::new(0), ns: AtomicU64::new(0) };

/// What was sampled so far.
pub struct CheckCpu {
    batches: AtomicU64,
    signatures: AtomicU64,
    ns: AtomicU64,
}

impl CheckCpu {
    /// Signatures in the sampled batches, and the nanoseconds that checking them took.
    pub fn sampled(&self) -> (u64, u64) {
        (self.signatures.load(Relaxed), self.ns.load(Relaxed))
    }

    /// Runs the check of a batch.
    pub(super) fn sample<T>(&self, signatures: usize, check: impl FnOnce() -> T) -> T {
        if !self.batches.fetch_add(1, Relaxed).is_multiple_of(SAMPLE_EVERY_BATCHES) {
            return check();
        }
        let started_ns = thread_cpu_ns();
        let done = check();
        self.ns.fetch_add(thread_cpu_ns().saturating_sub(started_ns), Relaxed);
        self.signatures.fetch_add(signatures as u64, Relaxed);
        done
    }
}

/// CPU time of this thread.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec.cast_unsigned() * 1_000_000_000).saturating_add(time.tv_nsec.cast_unsigned())
}
