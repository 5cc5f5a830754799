//! Time. Intervals run on `CLOCK_BOOTTIME`; the wall clock is the NSM's timestamp carried on by it.
//! The parent's word is never asked, and the wall clock never goes backwards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

/// Both clocks of the enclave.
#[derive(Debug)]
pub struct Clock {
    base: Mutex<Base>,
    last_wall_ms: AtomicU64,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Base {
    wall_ms: u64,
    boot_ms: u64,
}

/// Milliseconds of `CLOCK_BOOTTIME`.
pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(millis)
}

impl Clock {
    /// Starts at the timestamp of a document received at `boot_ms`.
    pub fn new(document_ms: u64, boot_ms: u64) -> Self {
        let base = Base { wall_ms: document_ms, boot_ms };
        Self { base: Mutex::new(base), last_wall_ms: AtomicU64::new(document_ms) }
    }

    /// Corrects the wall clock by a document of our own, received at `boot_ms`.
    pub fn observe(&self, document_ms: u64, boot_ms: u64) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) =
            Base { wall_ms: document_ms, boot_ms };
    }

    /// Milliseconds since 1970. A correction backwards makes it stand still, not jump.
    pub fn wall_ms(&self) -> u64 {
        self.wall_at(boot_ms())
    }

    fn wall_at(&self, boot_ms: u64) -> u64 {
        let base = *self.base.lock().unwrap_or_else(PoisonError::into_inner);
        let wall_ms = base.wall_ms.saturating_add(boot_ms.saturating_sub(base.boot_ms));
        self.last_wall_ms.fetch_max(wall_ms, Ordering::Relaxed).max(wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_runs_on_and_never_goes_back() {
        let clock = Clock::new(1_000_000, 500);
        assert_eq!(clock.wall_at(500), 1_000_000);
        assert_eq!(clock.wall_at(700), 1_000_200);
        clock.observe(1_000_100, 700);
        assert_eq!(clock.wall_at(700), 1_000_200, "stands still");
        assert_eq!(clock.wall_at(790), 1_000_200);
        assert_eq!(clock.wall_at(900), 1_000_300, "and goes on");
        clock.observe(2_000_000, 900);
        assert_eq!(clock.wall_at(900), 2_000_000);
        assert_eq!(clock.wall_at(0), 2_000_000, "a boot clock that went back is ignored");
    }

    #[test]
    fn boot_time_advances() {
        let first = boot_ms();
        assert!(first > 0 && boot_ms() >= first);
    }
}
