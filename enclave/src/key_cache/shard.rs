//! One shard: its entries, in order of use, within its share of the bounds. Whatever it does is
//! short, so that workers meet at its lock for microseconds; blobs are opened outside.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Open;
use super::prefetch::{REFRESHES_MAX, Refreshes, is_due};
use super::settings::{ENTRY_BYTES, Settings};
use super::slot::{Effect, Event, State, step};
use super::stats::Row;
use crate::dek::{DekId, Lease};
use crate::keys::{KeyError, KeyName, Opened, PlainKey};

/// Entries and the flights towards them.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Its share of the cache's settings.
    pub(super) settings: Settings,
    /// Openings under way, and since when: one a key, and no more than there are workers.
    pub(super) flights: HashMap<KeyName, u64>,
    pub(super) entries: HashMap<KeyName, Box<Entry>>,
    /// Names of the entries that hold a plain key, and of all others, by the second of their last
    /// use: what goes first comes first.
    pub(super) warm: BTreeSet<(u64, KeyName)>,
    cool: BTreeSet<(u64, KeyName)>,
    blob_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    state: State,
    plain: Option<Arc<PlainKey>>,
    public_key: [u8; 33],
    dek_id: DekId,
    blob: Arc<[u8]>,
    lease: Arc<Lease>,
    used_ms: u64,
    stats: Arc<Row>,
}

/// What is there for a request.
pub(super) enum Found {
    /// The plain key, if the event is a signature.
    Ready(Option<Arc<PlainKey>>),
    /// A blob to be opened first.
    Sealed(Sealed),
}

/// A blob on its way to be opened.
pub(super) struct Sealed {
    pub(super) blob: Arc<[u8]>,
    /// What was cached when it left. It lands only if that is still so: what was forgotten or
    /// replaced meanwhile does not come back.
    cached: Option<Arc<[u8]>>,
}

impl Shard {
    /// Puts settings in force, and what is over their bounds out.
    pub(super) fn configure(&mut self, share: Settings, now_ms: u64) {
        self.settings = share;
        self.make_room(0, 0, now_ms);
    }

    /// Answers an event of a key, or says which blob to open for it.
    pub(super) fn find(
        &mut self,
        name: &KeyName,
        blob: Option<&[u8]>,
        event: Event,
        by: &impl Open,
        refreshes: &Refreshes,
    ) -> Result<Found, KeyError> {
        let now_ms = by.began_ms();
        let sent = |blob: &[u8], cached| Found::Sealed(Sealed { blob: blob.into(), cached });
        let found = self.change(name, |entry, settings| {
            // First of all, what is over is erased, whatever the DEK is now.
            entry.step(Event::Tick, now_ms, settings);
            entry.renew_lease(by);
            if let Some(blob) = blob
                && entry.accepts(name, blob, now_ms)?
            {
                return Ok(sent(blob, Some(Arc::clone(&entry.blob))));
            }
            match entry.step(event, now_ms, settings) {
                Effect::Sign { refresh } => {
                    entry.used_ms = entry.used_ms.max(now_ms);
                    if refresh && refreshes.offer(*name, REFRESHES_MAX as u64) {
                        entry.step(Event::Queued, now_ms, settings);
                    }
                    Ok(Found::Ready(entry.plain.clone()))
                }
                Effect::Open => {
                    let (blob, cached) = (Arc::clone(&entry.blob), Some(Arc::clone(&entry.blob)));
                    Ok(Found::Sealed(Sealed { blob, cached }))
                }
                Effect::None => Ok(Found::Ready(None)),
                Effect::AskUnlock => {
                    entry.stats.count(|stats| stats.hard_expired_rejections += 1);
                    Err(KeyError::UnlockRequired(entry.dek_id))
                }
            }
        });
        found.unwrap_or_else(|| Ok(sent(blob.ok_or(KeyError::BlobRequired)?, None)))
    }

    /// Takes what opening a blob came to.
    pub(super) fn land(
        &mut self,
        name: &KeyName,
        Sealed { blob, cached }: Sealed,
        opened: Result<Opened, KeyError>,
        stats: Arc<Row>,
        now_ms: u64,
    ) -> Result<(), KeyError> {
        let there = self.entries.get(name).map(|entry| Arc::as_ptr(&entry.blob));
        if there != cached.as_ref().map(Arc::as_ptr) {
            return opened.map(drop);
        }
        if matches!(opened, Err(KeyError::Invalid)) && there == Some(Arc::as_ptr(&blob)) {
            // Sealed under a fake of the DEK; it must not keep out the key whose id it has.
            self.remove(name);
        }
        self.put(name, blob, opened?, stats, now_ms)
    }

    /// Puts an opened key in, in place of what was there.
    pub(super) fn put(
        &mut self,
        name: &KeyName,
        blob: Arc<[u8]>,
        Opened { plain, lease }: Opened,
        stats: Arc<Row>,
        now_ms: u64,
    ) -> Result<(), KeyError> {
        if self.entries.get(name).is_some_and(|entry| entry.public_key != plain.public_key) {
            return Err(KeyError::Conflict);
        }
        self.remove(name);
        self.make_room(1, blob.len(), now_ms);
        self.blob_bytes += blob.len();
        let (state, public_key, dek_id) = (State::Cool, plain.public_key, plain.dek_id);
        let (plain, used_ms) = (Some(Arc::new(plain)), now_ms);
        let mut entry = Entry { state, plain, public_key, dek_id, blob, lease, used_ms, stats };
        entry.step(Event::Opened, now_ms, &self.settings);
        let (warm, second) = entry.rank();
        self.list(warm).insert((second, *name));
        self.entries.insert(*name, Box::new(entry));
        Ok(())
    }

    /// Erases a key. True if it was there.
    pub(super) fn remove(&mut self, name: &KeyName) -> bool {
        let Some(entry) = self.entries.remove(name) else { return false };
        let (warm, second) = entry.rank();
        self.list(warm).remove(&(second, *name));
        self.blob_bytes -= entry.blob.len();
        true
    }

    /// Erases plain keys whose time is over, and queues the refreshes that are due.
    pub(super) fn sweep(&mut self, refreshes: Option<&Refreshes>, now_ms: u64) {
        let warm: Vec<_> = self.warm.iter().map(|(_, name)| *name).collect();
        for name in warm {
            self.change(&name, |entry, settings| {
                entry.step(Event::Tick, now_ms, settings);
                let (Some(refreshes), State::Warm(warm)) = (refreshes, entry.state) else { return };
                entry.stats.count(|stats| stats.prefetch_scanned += 1);
                if !is_due(&warm, entry.used_ms, name.key_id[15], now_ms, settings) {
                } else if refreshes.offer(name, settings.prefetch_in_flight) {
                    entry.step(Event::Queued, now_ms, settings);
                    entry.stats.count(|stats| stats.prefetch_triggered += 1);
                } else {
                    entry.stats.count(|stats| stats.prefetch_skipped += 1);
                }
            });
        }
    }

    /// Changes an entry and keeps the order.
    fn change<T>(
        &mut self,
        name: &KeyName,
        change: impl FnOnce(&mut Entry, &Settings) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(name)?;
        let before = entry.rank();
        let result = change(entry, &self.settings);
        let after = entry.rank();
        if before != after {
            self.list(before.0).remove(&(before.1, *name));
            self.list(after.0).insert((after.1, *name));
        }
        Some(result)
    }

    fn list(&mut self, warm: bool) -> &mut BTreeSet<(u64, KeyName)> {
        if warm { &mut self.warm } else { &mut self.cool }
    }

    /// Drops what goes first until `keys` more with blobs of `blob_bytes` fit, and erases the plain
    /// keys used longest ago until as many more fit.
    fn make_room(&mut self, keys: usize, blob_bytes: usize, now_ms: u64) {
        let fits = |shard: &Self| {
            let keys = shard.entries.len() + keys;
            let bytes = keys * ENTRY_BYTES + shard.blob_bytes + blob_bytes;
            keys as u64 <= shard.settings.keys && bytes as u64 <= shard.settings.bytes
        };
        while !fits(self)
            && let Some((_, name)) = self.cool.first().or(self.warm.first()).copied()
        {
            self.remove(&name);
        }
        while (self.warm.len() + keys) as u64 > self.settings.warm_keys
            && let Some((_, name)) = self.warm.first().copied()
        {
            self.change(&name, |entry, s| entry.step(Event::Displaced, now_ms, s));
        }
    }
}

impl Entry {
    /// Whether it is warm, and the second of its last use.
    fn rank(&self) -> (bool, u64) {
        (matches!(self.state, State::Warm(_)), self.used_ms / 1_000)
    }

    fn dek_valid(&self, now_ms: u64) -> bool {
        self.lease.until_ms(now_ms).is_some()
    }

    fn step(&mut self, event: Event, now_ms: u64, settings: &Settings) -> Effect {
        let (state, effect) = step(self.state, event, now_ms, self.dek_valid(now_ms), settings);
        self.state = state;
        if !matches!(state, State::Warm(_)) {
            self.plain = None;
        }
        effect
    }

    /// After its DEK expired and was unlocked again, the new lease counts.
    fn renew_lease(&mut self, by: &impl Open) {
        if !self.dek_valid(by.began_ms())
            && let Some(lease) = by.lease(&self.dek_id)
        {
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
        Ok(header.dek_id != self.dek_id && !self.dek_valid(now_ms))
    }
}

#[cfg(test)]
mod tests;
