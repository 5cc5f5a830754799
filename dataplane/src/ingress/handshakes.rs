//! TLS handshakes that are under way. They take no place of a connection: a client that begins many and
//! ends none would have them all. When too many are open the oldest gives way, and an honest client's,
//! which takes milliseconds, is hardly ever the oldest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The open handshakes of one worker.
#[derive(Debug)]
pub(super) struct Handshakes {
    open: Mutex<Open>,
    max: usize,
}

#[derive(Debug, Default)]
struct Open {
    begun: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// One open handshake; it has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    of: Arc<Handshakes>,
    number: u64,
    crowded_out: Arc<Notify>,
}

// === impl Handshakes ===

impl Handshakes {
    /// At most `max` at once.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), max })
    }

    /// Begins one. With `max` open the oldest of them ends.
    pub(super) fn begin(self: &Arc<Self>) -> Handshake {
        let crowded_out = Arc::new(Notify::new());
        let mut open = self.lock();
        if open.by_age.len() >= self.max
            && let Some((_, oldest)) = open.by_age.pop_first()
        {
            oldest.notify_one();
        }
        let number = open.begun;
        open.begun += 1;
        open.by_age.insert(number, Arc::clone(&crowded_out));
        drop(open);
        Handshake { of: Arc::clone(self), number, crowded_out }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Handshake ===

impl Handshake {
    /// Ends when a newer one takes this one's place.
    pub(super) async fn crowded_out(&self) {
        self.crowded_out.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.of.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_gives_way_and_one_that_ended_leaves_room() {
        let handshakes = Handshakes::new(2);
        let is_out = |handshake: &Handshake| handshake.crowded_out().now_or_never().is_some();
        let (first, second) = (handshakes.begin(), handshakes.begin());
        assert!(!is_out(&first) && !is_out(&second));
        let third = handshakes.begin();
        assert!(is_out(&first) && !is_out(&second) && !is_out(&third));
        drop(third);
        let fourth = handshakes.begin();
        assert!(!is_out(&second) && !is_out(&fourth), "there was room");
        drop((first, second, fourth));
        assert!(handshakes.lock().by_age.is_empty());
    }
}
