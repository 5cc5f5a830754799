//! A cache with DEKs of its own and blobs whose opening is counted.

use super::*;

pub(super) const SETTINGS: Settings = Settings {
    key_soft_ttl_ms: 900,
    key_hard_ttl_ms: 1_000,
    key_uses: 10,
    dek_hard_ttl_ms: 10_000,
    low_water_uses: 0,
    prefetch_window_ms: 100,
    prefetch_jitter_percent: 0,
    prefetch_in_flight: 0,
    prefetch_scan_ms: 1,
    sign_wait_ms: 3,
    hard_refresh_ms: 3,
    keys: 1_000_000,
    bytes: 1 << 30,
    warm_keys: 100_000,
};

pub(super) fn name(id: u8) -> KeyName {
    KeyName { keyspace: Keyspace::parse("default").unwrap(), key_id: [id; 16] }
}

pub(super) fn blob(key_id: u8, dek_id: u8, public_key: u8) -> Vec<u8> {
    let header = Header {
        app: "app".into(),
        keyspace: name(key_id).keyspace,
        dek_id: [dek_id; 16],
        key_id: [key_id; 16],
        public_key: [public_key; 33],
        created_ms: 0,
        birth_pcr0: [0; 48],
    };
    let secret = Secret32::copy_from(&[1; 32]).unwrap();
    header.seal(&secret, &secret).unwrap()
}

/// One batch. Opens every blob whose DEK is unlocked, unless it `fails`, and counts.
pub(super) struct Batch<'a> {
    pub(super) deks: &'a DekTable,
    pub(super) began_ms: u64,
    pub(super) fails: Option<KeyError>,
    pub(super) opened: Cell<u32>,
}

impl Open for Batch<'_> {
    fn open(&self, _: &KeyName, blob: &[u8]) -> Result<Opened, KeyError> {
        let header = crate::seal::parse(blob).map_err(|_| KeyError::Invalid)?.header;
        let found = self.deks.find(&header.dek_id, self.began_ms);
        let (dek, lease) = found.ok_or(KeyError::UnlockRequired(header.dek_id))?;
        self.opened.set(self.opened.get() + 1);
        if let Some(error) = self.fails {
            return Err(error);
        }
        let plain = PlainKey {
            scalar: Secret32::copy_from(&[1; 32]).unwrap(),
            public_key: header.public_key,
            birth_pcr0: header.birth_pcr0,
            dek_id: dek.id,
            dek_provenance: dek.provenance,
        };
        Ok(Opened { plain, lease })
    }

    fn lease(&self, dek_id: &DekId) -> Option<Arc<Lease>> {
        self.deks.find(dek_id, self.began_ms).map(|(_, lease)| lease)
    }

    fn began_ms(&self) -> u64 {
        self.began_ms
    }
}

pub(super) struct Rig {
    pub(super) deks: DekTable,
    pub(super) cache: KeyCache,
}

impl Rig {
    /// One shard. DEK 1 is unlocked until 10,000 ms.
    pub(super) fn new(settings: Settings) -> Self {
        let (deks, cache) = (DekTable::default(), KeyCache::with_shards(1, settings, settings));
        let rig = Self { deks, cache };
        rig.unlock(1, 10_000);
        rig
    }

    pub(super) fn unlock(&self, id: u8, until_ms: u64) {
        let (keyspace, secret) = (name(0).keyspace, Secret32::copy_from(&[id; 32]).unwrap());
        let dek = Dek { id: [id; 16], keyspace, provenance: Provenance::Born, secret };
        self.deks.install(dek, until_ms, false).unwrap();
    }

    pub(super) fn batch(&self, began_ms: u64) -> Batch<'_> {
        Batch { deks: &self.deks, began_ms, fails: None, opened: Cell::new(0) }
    }

    /// Whether the key could be had, and how many blobs were opened for it.
    pub(super) fn acquire(
        &self,
        id: u8,
        blob: Option<&[u8]>,
        now_ms: u64,
    ) -> (Result<(), KeyError>, u32) {
        let batch = self.batch(now_ms);
        let key = self.cache.ask(&name(id), blob, Event::Sign, &batch);
        (key.map(|key| assert!(key.is_some())), batch.opened.get())
    }

    /// What came of a refresh, and how many blobs were opened for it.
    pub(super) fn refresh(&self, id: u8, forced: bool, now_ms: u64) -> (Result<(), KeyError>, u32) {
        let batch = self.batch(now_ms);
        let done = self.cache.ask(&name(id), None, Event::Refresh { forced }, &batch);
        (done.map(drop), batch.opened.get())
    }

    /// Opens a blob as an activation does, and puts it in.
    pub(super) fn activate(&self, id: u8, blob: &[u8], now_ms: u64) -> Result<(), KeyError> {
        let opened = self.batch(now_ms).open(&name(id), blob)?;
        self.cache.put(&name(id), blob, opened, now_ms)
    }

    /// Takes a refresh from the queue, as a worker between its batches.
    pub(super) fn next_refresh(&self) -> Option<KeyName> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(self.cache.refreshes.next()).poll(&mut context) {
            std::task::Poll::Ready(name) => Some(name),
            std::task::Poll::Pending => None,
        }
    }

    /// What happens every second, and the counts after it.
    pub(super) fn sweep(&self, now_ms: u64) -> Counts {
        self.cache.sweep(now_ms, self.deks.sweep(now_ms));
        self.cache.counts()
    }

    /// Asserts what must hold after every step, and gives the number of plain keys.
    pub(super) fn check(&self) -> usize {
        let (all, shards) = (self.cache.settings(), self.cache.places.len() as u64);
        let (keys, warm_keys) = (all.keys / shards, all.warm_keys / shards);
        let settings = Settings { keys, warm_keys, bytes: all.bytes / shards, ..all };
        self.cache.places.iter().map(|place| place.lock().check(&settings)).sum()
    }
}

impl KeyCache {
    /// Puts settings in force that the contract would not allow.
    pub(super) fn force(&self, settings: Settings, now_ms: u64) {
        self.apply(&settings, now_ms);
        *self.settings.lock().unwrap() = settings;
    }
}
