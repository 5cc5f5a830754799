//! Live attestation for the dataplane, at a bounded rate: the NSM is one mutex, and a caller who
//! asks all the time must not starve unlocks.

use std::sync::{Mutex, PoisonError};

/// Documents a second, steadily. A dataplane asks once a boot and once a verification policy.
pub const ATTEST_PER_S: u64 = 5;
/// Documents at once: all connections of a restarted dataplane.
pub const ATTEST_BURST: u64 = 20;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Rate(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    thousandths: u64,
    filled_ms: u64,
}

impl Rate {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self(Mutex::new(Bucket { thousandths: ATTEST_BURST * 1_000, filled_ms: now_ms }))
    }

    /// Takes one. False if none is left.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now_ms.saturating_sub(bucket.filled_ms).saturating_mul(ATTEST_PER_S);
        bucket.thousandths = bucket.thousandths.saturating_add(gained).min(ATTEST_BURST * 1_000);
        bucket.filled_ms = now_ms;
        match bucket.thousandths.checked_sub(1_000) {
            Some(left) => bucket.thousandths = left,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(0);
        let taken = |now_ms| (0..100).filter(|_| rate.take(now_ms)).count();
        assert_eq!(taken(0), 20);
        assert_eq!(taken(199), 0);
        assert_eq!(taken(200), 1);
        assert_eq!(taken(1_200), 5);
        assert_eq!(taken(1_000_000), 20);
    }
}
