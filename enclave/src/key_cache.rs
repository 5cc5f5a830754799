//! Keys opened here, shared by all workers. An entry holds the sealed blob for its whole life and
//! the plain key only while [`slot::State::Warm`]. Opening happens under the lock of a shard, so
//! one key is opened once however many ask; signing happens outside it, by reference.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dek::{DekTable, Lease};
use crate::keys::{KeyError, KeyName, Opened, PlainKey};

pub mod slot;

use slot::{Effect, Event, Limits, Moment, State, step};

/// Keys of the whole cache: 65,536 of about 600 bytes are 40 MiB.
pub const KEYS_MAX: usize = 65_536;
/// Blob bytes of the whole cache: half a KiB a key at [`KEYS_MAX`].
pub const BLOB_BYTES_TOTAL_MAX: usize = 32 * 1024 * 1024;
/// Shards: so many that workers seldom meet, and each small enough to be scanned for a victim.
const SHARDS: usize = 64;

/// The cache.
#[derive(Debug)]
pub struct KeyCache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    limits: Limits,
    shard_keys_max: usize,
    shard_bytes_max: usize,
}

/// Keys by state, for `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain key present.
    pub warm: u64,
    /// Sealed only, whether or not the DEK is valid.
    pub cool: u64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<KeyName, Entry>,
    blob_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    state: State,
    plain: Option<Arc<PlainKey>>,
    public_key: [u8; 33],
    dek_id: [u8; 16],
    blob: Box<[u8]>,
    lease: Arc<Lease>,
    used_ms: u64,
}

/// Opens a blob for the cache; `keys` knows how.
pub trait Open {
    /// Opens and checks `blob` as the key `name`.
    ///
    /// # Errors
    /// See [`KeyError`].
    fn open(&self, name: &KeyName, blob: &[u8], now_ms: u64) -> Result<Opened, KeyError>;
}

impl KeyCache {
    /// An empty cache of at most `keys_max` keys and `blob_bytes_max` bytes of blobs.
    pub fn new(limits: Limits, keys_max: usize, blob_bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            limits,
            shard_keys_max: keys_max.div_ceil(SHARDS),
            shard_bytes_max: blob_bytes_max.div_ceil(SHARDS),
        }
    }

    /// The plain key for one signature or statement. `blob` is what the caller read from the store
    /// after [`KeyError::BlobRequired`].
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn acquire(
        &self,
        name: &KeyName,
        blob: Option<&[u8]>,
        deks: &DekTable,
        opener: &impl Open,
        now_ms: u64,
    ) -> Result<Arc<PlainKey>, KeyError> {
        let mut shard = self.shard(name);
        let Some(entry) = shard.entries.get_mut(name) else {
            let opened = opener.open(name, blob.ok_or(KeyError::BlobRequired)?, now_ms)?;
            self.insert(&mut shard, *name, opened, now_ms);
            return shard.entries.get_mut(name).ok_or(KeyError::Internal)?.take_use(
                name,
                opener,
                now_ms,
                &self.limits,
            );
        };
        entry.renew_lease(deks, now_ms, &self.limits);
        if let Some(blob) = blob {
            let replacement = entry.accepts(name, blob, now_ms)?;
            if replacement {
                let opened = opener.open(name, blob, now_ms)?;
                self.insert(&mut shard, *name, opened, now_ms);
            }
        }
        let entry = shard.entries.get_mut(name).ok_or(KeyError::Internal)?;
        let used = entry.take_use(name, opener, now_ms, &self.limits);
        if matches!(used, Err(KeyError::Invalid)) {
            // Sealed under a fake of the DEK; it must not keep out the key whose id it has.
            shard.remove(name);
        }
        used
    }

    /// Puts a freshly opened key in, in place of what was there.
    ///
    /// # Errors
    /// [`KeyError::Conflict`]: the id is cached with another public key.
    pub fn put(&self, name: &KeyName, opened: Opened, now_ms: u64) -> Result<(), KeyError> {
        let mut shard = self.shard(name);
        let cached = shard.entries.get(name);
        if cached.is_some_and(|entry| entry.public_key != opened.plain.public_key) {
            return Err(KeyError::Conflict);
        }
        self.insert(&mut shard, *name, opened, now_ms);
        Ok(())
    }

    /// Erases a key. True if it was there.
    pub fn forget(&self, name: &KeyName) -> bool {
        self.shard(name).remove(name)
    }

    /// Erases plain keys whose time is over.
    pub fn sweep(&self, now_ms: u64) {
        for shard in &self.shards {
            for entry in lock(shard).entries.values_mut() {
                entry.step(Event::Tick, now_ms, &self.limits);
            }
        }
    }

    /// How many keys are in which state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            for entry in lock(shard).entries.values() {
                match entry.state {
                    State::Warm(_) => counts.warm += 1,
                    State::Cool | State::Invalid => counts.cool += 1,
                }
            }
        }
        counts
    }

    fn shard(&self, name: &KeyName) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(name) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    fn insert(&self, shard: &mut Shard, name: KeyName, opened: Opened, now_ms: u64) {
        shard.remove(&name);
        shard.make_room(opened.blob.len(), self.shard_keys_max, self.shard_bytes_max);
        let mut entry = Entry {
            state: State::Cool,
            public_key: opened.plain.public_key,
            dek_id: opened.plain.dek_id,
            plain: Some(Arc::new(opened.plain)),
            blob: opened.blob,
            lease: opened.lease,
            used_ms: now_ms,
        };
        entry.step(Event::Opened, now_ms, &self.limits);
        shard.blob_bytes += entry.blob.len();
        shard.entries.insert(name, entry);
    }
}

impl Shard {
    fn remove(&mut self, name: &KeyName) -> bool {
        let removed = self.entries.remove(name);
        self.blob_bytes -= removed.as_ref().map_or(0, |entry| entry.blob.len());
        removed.is_some()
    }

    /// Drops the keys used longest ago until one more fits.
    fn make_room(&mut self, blob_bytes: usize, keys_max: usize, bytes_max: usize) {
        while self.entries.len() >= keys_max || self.blob_bytes + blob_bytes > bytes_max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used_ms);
            let Some(name) = oldest.map(|(name, _)| *name) else { return };
            self.remove(&name);
        }
    }
}

impl Entry {
    fn step(&mut self, event: Event, now_ms: u64, limits: &Limits) -> Effect {
        let moment = Moment { now_ms, dek_until_ms: self.lease.until_ms(now_ms) };
        let (state, effect) = step(self.state, event, moment, limits);
        self.state = state;
        if !matches!(state, State::Warm(_)) {
            self.plain = None;
        }
        effect
    }

    /// After its DEK expired and was unlocked again, the new lease counts.
    fn renew_lease(&mut self, deks: &DekTable, now_ms: u64, limits: &Limits) {
        if self.lease.until_ms(now_ms).is_none()
            && let Some((_, lease)) = deks.find(&self.dek_id, now_ms)
        {
            // It may be another DEK: what the old one opened is erased.
            self.step(Event::Tick, now_ms, limits);
            self.lease = lease;
        }
    }

    /// Checks a blob that came with a request against what is cached. True if it should take its
    /// place: the same key under another DEK, while the cached one cannot be opened.
    fn accepts(&self, name: &KeyName, blob: &[u8], now_ms: u64) -> Result<bool, KeyError> {
        let header = crate::seal::parse(blob).map_err(|_| KeyError::Invalid)?.header;
        if header.keyspace != name.keyspace || header.key_id != name.key_id {
            return Err(KeyError::Invalid);
        }
        if header.public_key != self.public_key {
            return Err(KeyError::Conflict);
        }
        Ok(header.dek_id != self.dek_id && self.lease.until_ms(now_ms).is_none())
    }

    fn take_use(
        &mut self,
        name: &KeyName,
        opener: &impl Open,
        now_ms: u64,
        limits: &Limits,
    ) -> Result<Arc<PlainKey>, KeyError> {
        self.used_ms = now_ms;
        let mut effect = self.step(Event::Sign, now_ms, limits);
        if effect == Effect::Open {
            self.reopen(name, opener, now_ms, limits)?;
            effect = self.step(Event::Sign, now_ms, limits);
        }
        match effect {
            Effect::Sign { refresh } => {
                let plain = self.plain.clone().ok_or(KeyError::Internal)?;
                if refresh {
                    // A failure shows when the plain key is over; until then this one is good.
                    let _ = self.reopen(name, opener, now_ms, limits);
                }
                Ok(plain)
            }
            _ => Err(KeyError::UnlockRequired(self.dek_id)),
        }
    }

    fn reopen(
        &mut self,
        name: &KeyName,
        opener: &impl Open,
        now_ms: u64,
        limits: &Limits,
    ) -> Result<(), KeyError> {
        match opener.open(name, &self.blob, now_ms) {
            Ok(opened) => {
                self.plain = Some(Arc::new(opened.plain));
                self.lease = opened.lease;
                self.step(Event::Opened, now_ms, limits);
                Ok(())
            }
            Err(error) => {
                self.step(Event::OpenFailed, now_ms, limits);
                Err(error)
            }
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
