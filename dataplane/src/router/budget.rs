//! A bound on sending again, shared by every worker thread: retries are a small part of the load,
//! whatever fails, so they cannot multiply it (row S14a). A token bucket, as in Finagle's
//! `RetryBudget`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Requests that pay for one retry: retries add at most 10 % to a load that fails as a whole.
const REQUESTS_PER_RETRY: u64 = 10;
/// Retries a second that are free, so that a member with few requests can retry at all.
const FLOOR_RETRIES_PER_SECOND: u64 = 10;
/// Retries that can be saved up: about what one lost connection takes with it at full load. A process
/// starts with all of them.
const SAVED_RETRIES_MAX: u64 = 500;

/// What is left to be spent on retries.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// Requests since the last look; all that a request without a retry touches.
    requests: AtomicU64,
    bucket: Mutex<Bucket>,
}

/// The unit is a request; a retry costs [`REQUESTS_PER_RETRY`] of them.
#[derive(Debug)]
struct Bucket {
    saved: u64,
    refilled: Instant,
}

impl RetryBudget {
    /// A full budget.
    pub(crate) fn new(now: Instant) -> Self {
        let bucket = Bucket { saved: SAVED_RETRIES_MAX * REQUESTS_PER_RETRY, refilled: now };
        Self { requests: AtomicU64::new(0), bucket: Mutex::new(bucket) }
    }

    /// A request came; its retries are no requests.
    pub(crate) fn earn(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry; false if there is none.
    pub(crate) fn spend(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.add(self.requests.swap(0, Ordering::Relaxed));
        bucket.refill(now);
        let left = bucket.saved.checked_sub(REQUESTS_PER_RETRY);
        bucket.saved = left.unwrap_or(bucket.saved);
        left.is_some()
    }
}

impl Bucket {
    fn add(&mut self, requests: u64) {
        let most = SAVED_RETRIES_MAX * REQUESTS_PER_RETRY;
        self.saved = self.saved.saturating_add(requests).min(most);
    }

    /// Adds the free retries; what is left of the last step stays for the next call.
    fn refill(&mut self, now: Instant) {
        const STEP: Duration = Duration::from_millis(1_000 / FLOOR_RETRIES_PER_SECOND);
        let steps = now.saturating_duration_since(self.refilled).as_millis() / STEP.as_millis();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.refilled += STEP.saturating_mul(steps);
        self.add(u64::from(steps).saturating_mul(REQUESTS_PER_RETRY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &RetryBudget, now: Instant) -> u64 {
        (0..100_000).take_while(|_| budget.spend(now)).count() as u64
    }

    #[test]
    fn a_tenth_of_the_requests_a_floor_and_no_more_than_can_be_saved() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        assert_eq!(spend_all(&budget, start), SAVED_RETRIES_MAX);
        (0..1_009).for_each(|_| budget.earn());
        assert_eq!(spend_all(&budget, start), 100);
        budget.earn();
        assert_eq!(spend_all(&budget, start), 1, "the nine of before are kept");
        let second = start + Duration::from_millis(1_050);
        assert_eq!(spend_all(&budget, second), FLOOR_RETRIES_PER_SECOND);
        assert_eq!(spend_all(&budget, second + Duration::from_millis(50)), 1);
        (0..1_000_000).for_each(|_| budget.earn());
        let year = start + Duration::from_hours(365 * 24);
        assert_eq!(spend_all(&budget, year), SAVED_RETRIES_MAX);
        assert_eq!(spend_all(&budget, start), 0, "a clock that steps back earns nothing");
    }
}
