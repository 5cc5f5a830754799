//! Callers that were told apart before: by token for a worker, by the connection itself for one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Caller;
use crate::store::sha256;

/// Tokens of one generation; two are kept. 300 bytes each, less than 1 MiB a worker.
const GENERATION_TOKENS_MAX: usize = 1_024;
/// How long a token is believed without another look: keys that left the cluster's set take effect then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Callers by the SHA-256 of their tokens. One worker's, so its lock is free.
#[derive(Debug, Default)]
pub(crate) struct CallerCache(Mutex<Generations>);

/// What a connection's own proof came to.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Option<(u64, Caller)>>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<[u8; 32], Entry>,
    old: HashMap<[u8; 32], Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    caller: Caller,
    /// Of the rules that the caller's rights come from.
    epoch: u64,
    until: Instant,
}

// === impl CallerCache ===

impl CallerCache {
    /// The caller with this token, if the rules are still those of `epoch` and it has not expired.
    pub(crate) fn get(&self, token: &str, epoch: u64, now: Instant) -> Option<Caller> {
        let hash = sha256(token.as_bytes());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let young = all.young.get(&hash).cloned();
        let entry = match young {
            Some(entry) => entry,
            None => all.aged(hash)?,
        };
        (entry.epoch == epoch && now < entry.until).then_some(entry.caller)
    }

    pub(crate) fn put(&self, token: &str, epoch: u64, expires: Instant, caller: Caller) {
        let until = expires.min(Instant::now() + LOOK_AGAIN_AFTER);
        let entry = Entry { caller, epoch, until };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(sha256(token.as_bytes()), entry);
    }
}

// === impl Generations ===

impl Generations {
    /// What is used returns to the young ones.
    fn aged(&mut self, hash: [u8; 32]) -> Option<Entry> {
        let entry = self.old.remove(&hash)?;
        self.insert(hash, entry.clone());
        Some(entry)
    }

    fn insert(&mut self, hash: [u8; 32], entry: Entry) {
        if self.young.len() >= GENERATION_TOKENS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, entry);
    }
}

// === impl Remembered ===

impl Remembered {
    pub(crate) fn get(&self, epoch: u64) -> Option<Caller> {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, caller) = remembered.as_ref()?;
        (*of == epoch).then(|| caller.clone())
    }

    pub(crate) fn put(&self, epoch: u64, caller: Caller) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, caller));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_keeps_what_is_used_and_forgets_in_time() {
        let cache = CallerCache::default();
        let start = Instant::now();
        let hour = start + Duration::from_hours(1);
        let caller = |name: &str| Caller::anybody(name);
        cache.put("used", 1, hour, caller("used"));
        for n in 0..4 * GENERATION_TOKENS_MAX {
            cache.put(&format!("token-{n}"), 1, hour, caller("other"));
            assert_eq!(cache.get("used", 1, start).unwrap().name(), "used", "{n}");
        }
        let all = cache.0.lock().unwrap();
        assert!(all.young.len() + all.old.len() <= 2 * GENERATION_TOKENS_MAX);
        drop(all);
        assert!(cache.get("token-0", 1, start).is_none());
        assert!(cache.get("used", 2, start).is_none(), "other rules");
        assert!(cache.get("used", 1, start + LOOK_AGAIN_AFTER).is_none(), "too long ago");
        cache.put("short", 1, start + Duration::from_secs(5), caller("short"));
        assert!(cache.get("short", 1, start + Duration::from_secs(4)).is_some());
        assert!(cache.get("short", 1, start + Duration::from_secs(5)).is_none(), "expired");
    }
}
