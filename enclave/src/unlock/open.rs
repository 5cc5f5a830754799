//! Begun unlocks: bounded in number and life, each taken up once and given one tunnel.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sigil_enclave_protocol::bounds::{UNLOCK_BEGIN_LIFE, UNLOCKS_OPEN_MAX};
use tokio::sync::oneshot;

use super::UnlockId;

/// Begun unlocks with what waits (`W`) for a tunnel (`T`).
pub(super) struct OpenUnlocks<W, T> {
    inner: Mutex<HashMap<UnlockId, Entry<W, T>>>,
}

/// It counts as open until it is done or expires.
struct Entry<W, T> {
    begun_ms: u64,
    tunnel: Option<oneshot::Sender<T>>,
    waiting: Option<(W, oneshot::Receiver<T>)>,
}

/// An unlock that was taken up. It stops counting when this is dropped.
pub(super) struct Taken<'a, W, T> {
    pub(super) waiting: W,
    tunnel: oneshot::Receiver<T>,
    life: Duration,
    _finish: Finish<'a, W, T>,
}

struct Finish<'a, W, T>(&'a OpenUnlocks<W, T>, UnlockId);

impl<W, T> OpenUnlocks<W, T> {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    /// False if [`UNLOCKS_OPEN_MAX`] are open.
    pub(super) fn has_room(&self, now_ms: u64) -> bool {
        self.sweep(now_ms);
        self.lock().len() < UNLOCKS_OPEN_MAX
    }

    /// Opens an unlock. False if there is no room.
    pub(super) fn add(&self, id: UnlockId, waiting: W, now_ms: u64) -> bool {
        if !self.has_room(now_ms) {
            return false;
        }
        let mut inner = self.lock();
        let (sender, receiver) = oneshot::channel();
        let waiting = Some((waiting, receiver));
        inner.insert(id, Entry { begun_ms: now_ms, tunnel: Some(sender), waiting });
        true
    }

    /// True if a tunnel for this unlock is awaited.
    pub(super) fn expects(&self, id: &UnlockId) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.tunnel.is_some())
    }

    /// Hands a tunnel over. It is dropped if nobody awaits it any more.
    pub(super) fn attach(&self, id: &UnlockId, tunnel: T) {
        if let Some(sender) = self.lock().get_mut(id).and_then(|entry| entry.tunnel.take()) {
            let _ = sender.send(tunnel);
        }
    }

    /// Takes an unlock up, once.
    pub(super) fn take(&self, id: &UnlockId, now_ms: u64) -> Option<Taken<'_, W, T>> {
        self.sweep(now_ms);
        let mut inner = self.lock();
        let entry = inner.get_mut(id)?;
        let (waiting, tunnel) = entry.waiting.take()?;
        let life = UNLOCK_BEGIN_LIFE.saturating_sub(age(entry.begun_ms, now_ms));
        Some(Taken { waiting, tunnel, life, _finish: Finish(self, *id) })
    }

    /// Drops what nobody took up in time.
    pub(super) fn sweep(&self, now_ms: u64) {
        self.lock().retain(|_, entry| {
            entry.waiting.is_none() || age(entry.begun_ms, now_ms) < UNLOCK_BEGIN_LIFE
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UnlockId, Entry<W, T>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W, T> Taken<'_, W, T> {
    /// The tunnel, if it comes within the rest of the unlock's life.
    pub(super) async fn tunnel(&mut self) -> Option<T> {
        tokio::time::timeout(self.life, &mut self.tunnel).await.ok()?.ok()
    }
}

impl<W, T> Drop for Finish<'_, W, T> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn age(begun_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(begun_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE_MS: u64 = 10_000;

    fn open() -> OpenUnlocks<&'static str, u32> {
        OpenUnlocks::new()
    }

    #[tokio::test]
    async fn an_unlock_is_taken_once_with_its_tunnel() {
        let unlocks = open();
        assert!(unlocks.add([1; 16], "one", 0) && unlocks.expects(&[1; 16]));
        unlocks.attach(&[1; 16], 7);
        assert!(!unlocks.expects(&[1; 16]), "one tunnel an unlock");
        unlocks.attach(&[1; 16], 8);
        let mut taken = unlocks.take(&[1; 16], 1).unwrap();
        assert_eq!((taken.waiting, taken.tunnel().await), ("one", Some(7)));
        assert!(unlocks.take(&[1; 16], 1).is_none());
        assert!(unlocks.take(&[2; 16], 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_awaited_for_the_rest_of_the_life() {
        let unlocks = open();
        unlocks.add([1; 16], "one", 0);
        let mut taken = unlocks.take(&[1; 16], 4_000).unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(taken.tunnel().await, None);
        assert_eq!(started.elapsed(), Duration::from_secs(6));
    }

    #[test]
    fn a_begun_unlock_expires() {
        let unlocks = open();
        unlocks.add([1; 16], "one", 0);
        assert!(unlocks.take(&[1; 16], LIFE_MS).is_none());
        assert!(!unlocks.expects(&[1; 16]));
        unlocks.add([2; 16], "two", 0);
        assert!(unlocks.take(&[2; 16], LIFE_MS - 1).is_some());
    }

    #[test]
    fn open_unlocks_are_bounded_and_those_under_way_count() {
        let unlocks = open();
        for id in 0..UNLOCKS_OPEN_MAX {
            assert!(unlocks.add([u8::try_from(id).unwrap(); 16], "begun", 0));
        }
        assert!(!unlocks.add([99; 16], "one more", 0));
        let taken = unlocks.take(&[0; 16], 0).unwrap();
        assert!(!unlocks.add([99; 16], "one more", 0), "taken up is still open");
        drop(taken);
        assert!(unlocks.add([99; 16], "one more", 0));
        let taken = unlocks.take(&[1; 16], 0).unwrap();
        unlocks.sweep(LIFE_MS);
        assert_eq!(unlocks.lock().len(), 1, "what is under way stays");
        drop(taken);
        assert_eq!(unlocks.lock().len(), 0);
    }
}
