//! The breaker as all workers share it: one atomic that every request reads, the machine behind a lock
//! that only failures and what follows them take. `tests/races` explores its interleavings.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Event, Rules, Verdict};
use super::sync::{AtomicU8, Mutex, Ordering};

/// Admits, and no failure is counted.
const CLEAR: u8 = 0;
/// Admits after failures: answers must be told to the machine.
const MARKED: u8 = 1;
/// Does not admit: requests ask the machine.
const CLOSED: u8 = 2;

/// The breaker of one enclave.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Follows the machine; written with the lock held.
    mirror: AtomicU8,
    machine: Mutex<Breaker>,
}

/// The state before and after an event.
pub(crate) type Change = (Breaker, Breaker);

// === impl Gate ===

impl Gate {
    /// Admits everything.
    pub(crate) fn new() -> Self {
        Self { mirror: AtomicU8::new(CLEAR), machine: Mutex::new(Breaker::NEW) }
    }

    /// True if requests need not ask. One read of memory that seldom changes.
    pub(crate) fn is_admitting(&self) -> bool {
        self.mirror.load(Ordering::Relaxed) != CLOSED
    }

    /// True if nobody needs to be told of answers.
    pub(crate) fn is_clear(&self) -> bool {
        self.mirror.load(Ordering::Relaxed) == CLEAR
    }

    /// Asks for one request. `Err`: how long until it is worth asking again.
    pub(crate) fn admit(&self, now: Instant, rules: &Rules) -> Result<Change, Duration> {
        let (change, verdict) = self.step(Event::Asked, now, rules);
        match verdict {
            Verdict::Refuse(wait) => Err(wait),
            Verdict::Pass | Verdict::Nothing => Ok(change),
        }
    }

    /// Tells what happened.
    pub(crate) fn tell(&self, event: Event, now: Instant, rules: &Rules) -> Change {
        self.step(event, now, rules).0
    }

    /// The state now.
    pub(crate) fn state(&self) -> Breaker {
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, event: Event, now: Instant, rules: &Rules) -> (Change, Verdict) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *machine;
        let (after, verdict) = before.step(event, now, rules);
        *machine = after;
        let mirror = match after {
            Breaker::Admitting { failures: 0, .. } => CLEAR,
            Breaker::Admitting { .. } => MARKED,
            Breaker::Shut { .. } | Breaker::Probing { .. } => CLOSED,
        };
        self.mirror.store(mirror, Ordering::Relaxed);
        ((before, after), verdict)
    }
}
