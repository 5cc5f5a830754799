//! How many requests may be in flight, and what becomes of one more: refused at once, or made to wait
//! for its turn. Off by default. One limiter serves every worker of the process (decision 26).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::{Admission, AdmissionMode};
use crate::error::{Code, Error};

mod count;
mod gate;
#[cfg(test)]
mod race;
#[cfg(test)]
mod tests;

use gate::{Entry, Gate};

/// What the parts of [`Gate`] are made of. The race check puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    pub(super) use std::sync::{Arc, Mutex, PoisonError};
}

/// A bound on requests in flight. Shared by every thread.
#[derive(Debug)]
pub(crate) struct Limiter {
    gate: Arc<Gate>,
    /// Longest wait, ms: 0 refuses at once, [`NO_TIMEOUT`] waits as long as the caller does.
    wait_ms: AtomicU64,
}

/// A place in flight, given back when dropped. Empty when there is no limit.
#[derive(Debug)]
pub(crate) struct Slot {
    _held: Option<gate::Slot>,
}

const NO_TIMEOUT: u64 = u64::MAX;

/// What the caller is told. It is the process that is full, not the enclave.
const FULL: &str = "as many requests are in flight as admission.maxConcurrent allows";

// === impl Limiter ===

impl Limiter {
    /// A limiter with nothing in flight.
    pub(crate) fn new(settings: &Admission) -> Self {
        let limiter = Self { gate: Arc::new(Gate::new()), wait_ms: AtomicU64::new(0) };
        limiter.set(settings);
        limiter
    }

    /// Takes other settings. Who is in flight stays; who waits is let in as far as there is room now.
    pub(crate) fn set(&self, settings: &Admission) {
        let wait_ms = match settings.mode {
            AdmissionMode::Try => 0,
            AdmissionMode::WaitWithTimeout => settings.wait_timeout_ms,
            AdmissionMode::WaitCancellable => NO_TIMEOUT,
        };
        self.wait_ms.store(wait_ms, Ordering::Relaxed);
        self.gate.set(settings.max_concurrent, settings.waiting_max);
    }

    /// A place in flight. Whoever stops polling stops waiting; the caller's deadline is kept around it.
    pub(crate) async fn enter(&self) -> Result<Slot, Error> {
        if self.gate.max() == 0 {
            return Ok(Slot::free());
        }
        if let Some(slot) = Gate::try_enter(&self.gate) {
            return Ok(slot.into());
        }
        let wait_ms = self.wait_ms.load(Ordering::Relaxed);
        if wait_ms == 0 {
            return Err(overloaded());
        }
        match Gate::enter_or_queue(&self.gate) {
            Entry::Entered(slot) => Ok(slot.into()),
            Entry::Full => Err(overloaded()),
            Entry::Queued(ticket) if wait_ms == NO_TIMEOUT => Ok(ticket.await.into()),
            Entry::Queued(ticket) => {
                let slot = timeout(Duration::from_millis(wait_ms), ticket).await;
                slot.map(Slot::from).map_err(|_| overloaded())
            }
        }
    }

    /// A place at once or not at all; `None` where the mode is to wait and there may be one later.
    pub(crate) fn enter_now(&self) -> Option<Result<Slot, Error>> {
        if self.gate.max() == 0 {
            return Some(Ok(Slot::free()));
        }
        match Gate::try_enter(&self.gate) {
            Some(slot) => Some(Ok(slot.into())),
            None if self.wait_ms.load(Ordering::Relaxed) == 0 => Some(Err(overloaded())),
            None => None,
        }
    }

    /// Places that are free; `None` without a limit.
    pub(crate) fn free(&self) -> Option<u32> {
        let max = self.gate.max();
        (max > 0).then(|| max.saturating_sub(self.gate.count().in_flight))
    }

    /// Requests that hold a place. Without a limit nobody counts them.
    pub(crate) fn in_flight(&self) -> u32 {
        self.gate.count().in_flight
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> u32 {
        self.gate.count().waiting
    }
}

// === impl Slot ===

impl Slot {
    /// For what is part of a request that has its place.
    pub(crate) fn free() -> Self {
        Self { _held: None }
    }
}

impl From<gate::Slot> for Slot {
    fn from(slot: gate::Slot) -> Self {
        Self { _held: Some(slot) }
    }
}

fn overloaded() -> Error {
    Error::new(Code::Overloaded, FULL)
}
