//! How often a caller may do something: the generic cell rate algorithm (ITU-T I.371, annex A), whose
//! whole state is one time. Workers share it as an atomic; nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const NS_A_SECOND: u64 = 1_000_000_000;

/// One caller's allowance for one thing.
#[derive(Debug)]
pub(super) struct Bucket {
    /// What times are counted from.
    start: Instant,
    /// When everything that was taken would have been due, one after the other; ns.
    due_ns: AtomicU64,
    /// What one request takes of the time, ns.
    share_ns: AtomicU64,
    /// How far ahead of the time requests may be, ns.
    burst_ns: AtomicU64,
}

/// Takes one share: the new due time, or how long to wait, ns. Pure.
fn step(due_ns: u64, now_ns: u64, share_ns: u64, burst_ns: u64) -> Result<u64, u64> {
    let after = due_ns.max(now_ns).saturating_add(share_ns);
    match after.saturating_sub(now_ns).checked_sub(burst_ns) {
        None | Some(0) => Ok(after),
        Some(wait_ns) => Err(wait_ns),
    }
}

// === impl Bucket ===

impl Bucket {
    /// Nothing was taken yet; a rate is set before it is used.
    pub(super) fn new(start: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        Self { start, due_ns: zero(), share_ns: zero(), burst_ns: zero() }
    }

    /// A rate of at least 1, and how many may come together.
    pub(super) fn set(&self, per_second: u32, burst: u32) {
        let share_ns = NS_A_SECOND / u64::from(per_second.max(1));
        self.share_ns.store(share_ns, Ordering::Relaxed);
        self.burst_ns.store(share_ns.saturating_mul(burst.max(1).into()), Ordering::Relaxed);
    }

    /// Takes one, or says when there is one.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now_ns = now.saturating_duration_since(self.start).as_nanos();
        let now_ns = u64::try_from(now_ns).unwrap_or(u64::MAX);
        let share_ns = self.share_ns.load(Ordering::Relaxed);
        let burst_ns = self.burst_ns.load(Ordering::Relaxed);
        let mut wait_ns = 0;
        let taken = self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due_ns| {
            step(due_ns, now_ns, share_ns, burst_ns).map_err(|wait| wait_ns = wait).ok()
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(wait_ns))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn in_any_time_no_more_is_taken_than_the_rate_and_one_burst(
            per_second in 1..5_000_u32,
            burst in 1..100_u32,
            pauses_us in proptest::collection::vec(0..50_000_u64, 1..400),
        ) {
            let start = Instant::now();
            let bucket = Bucket::new(start);
            bucket.set(per_second, burst);
            let share = Duration::from_nanos(NS_A_SECOND / u64::from(per_second));
            let (mut now, mut taken) = (start, Vec::new());
            for pause in pauses_us {
                now += Duration::from_micros(pause);
                match bucket.take(now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        prop_assert!(wait <= share * burst);
                        prop_assert!(bucket.take(now + wait).is_ok(), "it comes when it was said");
                        taken.push(now + wait);
                        now += wait;
                    }
                }
            }
            for (at, first) in taken.iter().enumerate() {
                for (later, last) in taken.iter().enumerate().skip(at) {
                    let count = u32::try_from(later - at + 1).unwrap();
                    let earned = (*last - *first).as_nanos() / share.as_nanos();
                    prop_assert!(u128::from(count) <= earned + u128::from(burst) + 1);
                }
            }
        }
    }

    #[test]
    fn a_burst_comes_together_and_then_the_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        bucket.set(10, 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(start + Duration::from_millis(100)), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(100)).is_err());
        let later = start + Duration::from_hours(1);
        let together = (0..10).take_while(|_| bucket.take(later).is_ok()).count();
        assert_eq!(together, 3, "a pause saves no more than a burst");
    }
}
