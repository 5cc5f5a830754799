//! CPU time of the checks, sampled, so that it can be stated apart. No build leaves it out.

use std::sync::LazyLock;

use crate::stats::{Count, SAMPLE_EVERY_BATCHES, thread_cpu};

/// Of all signers of this process.
pub static CHECK_CPU: LazyLock<CheckCpu> = LazyLock::new(CheckCpu::default);

/// What was sampled so far.
#[derive(Debug, Default)]
pub struct CheckCpu {
    batches: Count,
    signatures: Count,
    ns: Count,
}

impl CheckCpu {
    /// Signatures in the sampled batches, and the nanoseconds that checking them took.
    pub fn sampled(&self) -> (u64, u64) {
        (self.signatures.get(), self.ns.get())
    }

    /// Runs the check of a batch.
    pub(super) fn sample<T>(&self, signatures: usize, check: impl FnOnce() -> T) -> T {
        self.batches.add(1);
        if !self.batches.get().is_multiple_of(SAMPLE_EVERY_BATCHES) {
            return check();
        }
        let started = thread_cpu();
        let done = check();
        let taken = thread_cpu().saturating_sub(started).as_nanos();
        self.ns.add(u64::try_from(taken).unwrap_or(u64::MAX));
        self.signatures.add(signatures as u64);
        done
    }
}
