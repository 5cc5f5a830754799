//! Refreshes that nobody waits for: which keys, ahead of their soft limit, and the queue from
//! which the workers take them between their batches.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::settings::Settings;
use super::slot::Warm;
use crate::keys::KeyName;

/// Refreshes that wait for a worker, whoever asked: 80 bytes each.
pub const REFRESHES_MAX: usize = 4_096;

/// Whether the prefetcher refreshes a key now: one that is in use and nears its soft limit. A key
/// that nobody used for the length of a window is left to expire. `spread` is the key's own share
/// of the jitter: keys opened together do not all come at once.
pub fn is_due(warm: &Warm, used_ms: u64, spread: u8, now_ms: u64, settings: &Settings) -> bool {
    let window_ms = settings.prefetch_window_ms;
    let jitter_ms = window_ms.saturating_mul(settings.prefetch_jitter_percent) / 100;
    // From window - jitter to window + jitter.
    let ahead_ms = window_ms - jitter_ms + 2 * jitter_ms * u64::from(spread) / 255;
    let soft_ms = warm.opened_ms.saturating_add(settings.key_soft_ttl_ms);
    let in_use = now_ms.saturating_sub(used_ms) < window_ms;
    in_use && !warm.refreshing && now_ms.saturating_add(ahead_ms) >= soft_ms
}

/// Names of keys whose refresh was asked for.
#[derive(Debug, Default)]
pub struct Refreshes {
    queue: Mutex<VecDeque<KeyName>>,
    offered: Notify,
}

impl Refreshes {
    /// Queues a key unless `most` are queued. All workers that wait are woken, since any one of
    /// them may be busy for long.
    pub(super) fn offer(&self, name: KeyName, most: u64) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = (queue.len() as u64) < most.min(REFRESHES_MAX as u64);
        if has_room {
            queue.push_back(name);
            self.offered.notify_waiters();
        }
        has_room
    }

    /// The next key to refresh; for as many workers as there are.
    pub async fn next(&self) -> KeyName {
        loop {
            // First of all, so that nothing offered from here on is missed.
            let offered = self.offered.notified();
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(name) => return name,
                None => offered.await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
