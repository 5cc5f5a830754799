//! Keys opened here, shared by all workers. An entry holds the sealed blob for its whole life and
//! the plain key only while [`slot::State::Warm`]. A blob is opened by one worker at a time and
//! outside the lock of its shard; signing is outside it too, by reference. See
//! `docs/decisions/0013-the-key-cache.md`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::boot_ms;
use crate::dek::{DekId, Lease};
use crate::keys::{KeyError, KeyName, Opened, PlainKey};

pub mod prefetch;
pub mod settings;
mod shard;
pub mod slot;
pub mod stats;

use prefetch::Refreshes;
use settings::Settings;
use shard::{Found, Shard};
use slot::Event;
use stats::Stats;

/// Shards: so many that workers seldom meet, and that the plain keys of one are swept in a fraction
/// of a millisecond.
pub const SHARDS: usize = 256;
/// Looks at a key for one request: before and after it was opened, and twice more because the
/// opening of others failed, or because an activation or a `Forget` overtook it.
const FLIGHTS_MAX: usize = 4;

/// A plain key, if one was asked for.
pub type Answer = Result<Option<Arc<PlainKey>>, KeyError>;
/// Nothing, or why not.
pub type Done = Result<(), KeyError>;

/// The cache.
#[derive(Debug)]
pub struct KeyCache {
    places: Vec<Place>,
    hasher: RandomState,
    ceilings: Settings,
    settings: Mutex<Settings>,
    scan_at_ms: AtomicU64,
    counts: Mutex<Counts>,
    /// Refreshes that wait for a worker.
    pub refreshes: Refreshes,
    /// What is counted.
    pub stats: Stats,
}

/// Keys by state, for `State` and `Stats`. None is looked at for this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain key present.
    pub warm: u64,
    /// Sealed only, and the DEK is valid.
    pub cool: u64,
    /// Sealed only, and the DEK was not valid when the key was last used.
    pub invalid: u64,
}

#[derive(Debug, Default)]
struct Place {
    shard: Mutex<Shard>,
    landed: Condvar,
}

/// One batch of one worker, as the cache sees it: it can open blobs. `keys` knows how.
pub trait Open {
    /// Opens and checks `blob` as the key `name`.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn open(&self, name: &KeyName, blob: &[u8]) -> Result<Opened, KeyError>;

    /// The lease of a DEK that is unlocked.
    fn lease(&self, dek_id: &DekId) -> Option<Arc<Lease>>;

    /// Monotonic time at which the batch began. All its keys are judged by that.
    fn began_ms(&self) -> u64;
}

impl KeyCache {
    /// An empty cache with its settings and the highest that it will ever take.
    pub fn new(settings: Settings, ceilings: Settings) -> Self {
        Self::with_shards(SHARDS, settings, ceilings)
    }

    fn with_shards(shards: usize, settings: Settings, ceilings: Settings) -> Self {
        let cache = Self {
            places: (0..shards).map(|_| Place::default()).collect(),
            hasher: RandomState::new(),
            ceilings,
            settings: Mutex::new(settings),
            scan_at_ms: AtomicU64::new(0),
            counts: Mutex::default(),
            refreshes: Refreshes::default(),
            stats: Stats::default(),
        };
        cache.apply(&settings, 0);
        cache
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts settings in force, shard by shard. They hold for keys that are cached already.
    ///
    /// # Errors
    /// The number of the first setting that is out of range; nothing changes then.
    pub fn configure(&self, settings: Settings, now_ms: u64) -> Result<(), u32> {
        settings::check(&settings, &self.ceilings)?;
        let mut in_force = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(&settings, now_ms);
        *in_force = settings;
        Ok(())
    }

    fn apply(&self, settings: &Settings, now_ms: u64) {
        let shards = self.places.len() as u64;
        let share = Settings {
            keys: settings.keys / shards,
            bytes: settings.bytes / shards,
            warm_keys: settings.warm_keys / shards,
            ..*settings
        };
        for place in &self.places {
            place.lock().configure(share, now_ms);
        }
    }

    /// The plain key for one signature or statement ([`Event::Sign`]; `blob` is what the caller
    /// read from the store after [`KeyError::BlobRequired`]), or nothing once a cached blob was
    /// opened again, if it had to be ([`Event::Refresh`]).
    ///
    /// A blob is opened outside the lock, as the one flight of its key. Who finds one under way
    /// waits for it with the whole thread, and therefore not for long: until the own batch has
    /// waited for `sign_wait_ms`, or the flight is `hard_refresh_ms` old.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn ask<O: Open>(
        &self,
        name: &KeyName,
        blob: Option<&[u8]>,
        event: Event,
        by: &O,
    ) -> Answer {
        let place = self.place(name);
        let mut shard = place.lock();
        for _ in 0..FLIGHTS_MAX {
            let sealed = match shard.find(name, blob, event, by, &self.refreshes)? {
                Found::Ready(key) => return Ok(key),
                Found::Sealed(sealed) => sealed,
            };
            if let Some(since_ms) = shard.flights.get(name) {
                let own_ms = by.began_ms().saturating_add(shard.settings.sign_wait_ms);
                let until_ms = own_ms.min(since_ms.saturating_add(shard.settings.hard_refresh_ms));
                // A millisecond less, since the clock shows only whole ones.
                let left = Duration::from_millis(until_ms.saturating_sub(boot_ms() + 1));
                let stats = self.stats.row(&name.keyspace, false);
                stats.count(|stats| stats.singleflight_waiters += 1);
                let under_way = |shard: &mut Shard| shard.flights.contains_key(name);
                let waited = place.landed.wait_timeout_while(shard, left, under_way);
                let (after, end) = waited.unwrap_or_else(PoisonError::into_inner);
                stats.count(|stats| {
                    stats.singleflight_waiters -= 1;
                    stats.singleflight_wait_timeouts += u64::from(end.timed_out());
                });
                if end.timed_out() {
                    break;
                }
                shard = after;
                continue;
            }
            shard.flights.insert(*name, boot_ms());
            drop(shard);
            let started = Instant::now();
            let opened = by.open(name, &sealed.blob);
            let stats = self.stats.row(&name.keyspace, opened.is_ok());
            stats.opened(started.elapsed(), opened.is_err());
            shard = place.lock();
            shard.flights.remove(name);
            place.landed.notify_all();
            shard.land(name, sealed, opened, stats, by.began_ms())?;
        }
        Err(KeyError::OutOfTime)
    }

    /// Puts a freshly opened key in, in place of what was there.
    ///
    /// # Errors
    /// [`KeyError::Conflict`]: the id is cached with another public key.
    pub fn put(&self, name: &KeyName, blob: &[u8], opened: Opened, now_ms: u64) -> Done {
        let stats = self.stats.row(&name.keyspace, true);
        self.place(name).lock().put(name, blob.into(), opened, stats, now_ms)
    }

    /// Erases a key. True if it was there.
    pub fn forget(&self, name: &KeyName) -> bool {
        self.place(name).lock().remove(name)
    }

    /// Erases plain keys whose time is over, queues the refreshes that are due, and counts. Holds
    /// the lock of one shard at a time. `leased`: what [`crate::dek::DekTable::sweep`] gave.
    pub fn sweep(&self, now_ms: u64, leased: u64) {
        let settings = self.settings();
        let scan = now_ms >= self.scan_at_ms.load(Ordering::Relaxed);
        if scan {
            self.scan_at_ms.store(now_ms + settings.prefetch_scan_ms, Ordering::Relaxed);
        }
        let refreshes = (scan && settings.prefetch_in_flight > 0).then_some(&self.refreshes);
        let (mut warm, mut keys) = (0, 0);
        for place in &self.places {
            let mut shard = place.lock();
            shard.sweep(refreshes, now_ms);
            warm += shard.warm.len() as u64;
            keys += shard.entries.len() as u64;
        }
        let cool = leased.min(keys).saturating_sub(warm);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) =
            Counts { warm, cool, invalid: keys - warm - cool };
    }

    /// How many keys were in which state at the last sweep.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, name: &KeyName) -> &Place {
        let shards = self.places.len() as u64;
        let index = usize::try_from(self.hasher.hash_one(name) % shards).unwrap_or(0);
        &self.places[index]
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
