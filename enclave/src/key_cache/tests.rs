use std::cell::Cell;

use super::*;
use crate::dek::{Dek, Provenance};
use crate::names::Keyspace;
use crate::seal::Header;
use crate::secret::Secret32;

const LIMITS: Limits = Limits { soft_ttl_ms: 900, hard_ttl_ms: 1_000, uses: 10, low_water_uses: 0 };

fn name(id: u8) -> KeyName {
    KeyName { keyspace: Keyspace::parse("default").unwrap(), key_id: [id; 16] }
}

fn blob(key_id: u8, dek_id: u8, public_key: u8) -> Vec<u8> {
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

/// Opens every blob whose DEK is unlocked, and counts.
struct Opener<'a> {
    deks: &'a DekTable,
    opened: Cell<u32>,
}

impl Open for Opener<'_> {
    fn open(&self, _: &KeyName, blob: &[u8], now_ms: u64) -> Result<Opened, KeyError> {
        let header = crate::seal::parse(blob).map_err(|_| KeyError::Invalid)?.header;
        let found = self.deks.find(&header.dek_id, now_ms);
        let (dek, lease) = found.ok_or(KeyError::UnlockRequired(header.dek_id))?;
        self.opened.set(self.opened.get() + 1);
        let plain = PlainKey {
            scalar: Secret32::copy_from(&[1; 32]).unwrap(),
            public_key: header.public_key,
            birth_pcr0: header.birth_pcr0,
            dek_id: dek.id,
            dek_provenance: dek.provenance,
        };
        Ok(Opened { plain, blob: blob.into(), lease })
    }
}

struct Bench {
    deks: DekTable,
    cache: KeyCache,
}

impl Bench {
    /// DEK 1 is unlocked until 10,000 ms.
    fn new(keys_max: usize, blob_bytes_max: usize) -> Self {
        let bench = Self {
            deks: DekTable::default(),
            cache: KeyCache::new(LIMITS, keys_max, blob_bytes_max),
        };
        bench.unlock(1, 10_000);
        bench
    }

    fn unlock(&self, id: u8, until_ms: u64) {
        let (keyspace, secret) = (name(0).keyspace, Secret32::copy_from(&[id; 32]).unwrap());
        let dek = Dek { id: [id; 16], keyspace, provenance: Provenance::Born, secret };
        self.deks.install(dek, until_ms, false).unwrap();
    }

    /// Whether the key could be had, and how many blobs were opened for it.
    fn acquire(&self, id: u8, blob: Option<&[u8]>, now_ms: u64) -> (Result<(), KeyError>, u32) {
        let opener = Opener { deks: &self.deks, opened: Cell::new(0) };
        let acquired = self.cache.acquire(&name(id), blob, &self.deks, &opener, now_ms);
        (acquired.map(drop), opener.opened.get())
    }
}

fn bench() -> Bench {
    Bench::new(KEYS_MAX, BLOB_BYTES_TOTAL_MAX)
}

#[test]
fn an_unknown_key_needs_its_blob_once() {
    let bench = bench();
    assert_eq!(bench.acquire(7, None, 0), (Err(KeyError::BlobRequired), 0));
    assert_eq!(bench.acquire(7, Some(&blob(7, 1, 2)), 0), (Ok(()), 1));
    assert_eq!(bench.acquire(7, None, 1), (Ok(()), 0));
    assert_eq!(bench.cache.counts(), Counts { warm: 1, cool: 0 });
    assert!(bench.cache.forget(&name(7)) && !bench.cache.forget(&name(7)));
    assert_eq!(bench.acquire(7, None, 2), (Err(KeyError::BlobRequired), 0));
}

#[test]
fn a_cool_key_opens_in_place_and_a_due_one_is_refreshed() {
    let bench = bench();
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(bench.acquire(7, None, 900), (Ok(()), 1), "soft expiry refreshes");
    assert_eq!(bench.acquire(7, None, 1_899), (Ok(()), 1));
    bench.cache.sweep(2_899);
    assert_eq!(bench.cache.counts(), Counts { warm: 0, cool: 1 });
    assert_eq!(bench.acquire(7, None, 2_900), (Ok(()), 1));
}

#[test]
fn expiry_erases_the_plain_key() {
    let bench = bench();
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    bench.cache.sweep(1_000);
    let shard = bench.cache.shard(&name(7));
    assert!(shard.entries[&name(7)].plain.is_none());
}

#[test]
fn an_expired_dek_asks_for_an_unlock_and_a_new_one_makes_the_key_cool() {
    let bench = bench();
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    let locked = (Err(KeyError::UnlockRequired([1; 16])), 0);
    assert_eq!(bench.acquire(7, None, 10_000), locked);
    bench.deks.sweep(10_000);
    assert_eq!(bench.acquire(7, None, 10_001), locked);
    bench.unlock(1, 20_000);
    assert_eq!(bench.acquire(7, None, 10_002), (Ok(()), 1));
}

#[test]
fn a_blob_under_a_locked_dek_is_not_kept() {
    let bench = bench();
    let locked = (Err(KeyError::UnlockRequired([9; 16])), 0);
    assert_eq!(bench.acquire(7, Some(&blob(7, 9, 2)), 0), locked);
    assert_eq!(bench.acquire(7, None, 0), (Err(KeyError::BlobRequired), 0));
}

#[test]
fn another_public_key_under_a_cached_id_is_a_conflict() {
    let bench = bench();
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(bench.acquire(7, Some(&blob(7, 1, 3)), 1).0, Err(KeyError::Conflict));
    assert_eq!(bench.acquire(7, Some(&blob(8, 1, 2)), 1).0, Err(KeyError::Invalid));
    assert_eq!(bench.acquire(7, Some(b"junk"), 1).0, Err(KeyError::Invalid));
    let opener = Opener { deks: &bench.deks, opened: Cell::new(0) };
    let other = opener.open(&name(7), &blob(7, 1, 3), 1).unwrap();
    assert_eq!(bench.cache.put(&name(7), other, 1), Err(KeyError::Conflict));
    assert_eq!(bench.acquire(7, None, 1), (Ok(()), 0), "what was cached stays");
}

#[test]
fn a_blob_sealed_again_takes_the_place_of_one_that_cannot_be_opened() {
    let bench = bench();
    bench.unlock(2, 20_000);
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(bench.acquire(7, Some(&blob(7, 2, 2)), 1), (Ok(()), 0), "not needed yet");
    assert_eq!(bench.acquire(7, Some(&blob(7, 2, 2)), 10_000), (Ok(()), 1));
    assert_eq!(bench.acquire(7, None, 10_001), (Ok(()), 0));
}

#[test]
fn uses_run_out_and_the_key_is_opened_again() {
    let bench = bench();
    bench.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    let opened: u32 = (0..9).map(|_| bench.acquire(7, None, 1).1).sum();
    assert_eq!(opened, 0);
    assert_eq!(bench.acquire(7, None, 1), (Ok(()), 1));
}

#[test]
fn the_cache_is_bounded_by_keys_and_drops_the_one_used_longest_ago() {
    let bench = Bench::new(64, BLOB_BYTES_TOTAL_MAX);
    for id in 0..=255 {
        bench.acquire(id, Some(&blob(id, 1, 2)), u64::from(id)).0.unwrap();
    }
    let counts = bench.cache.counts();
    assert!(counts.warm <= 64 && counts.warm > 32, "{counts:?}");
    assert_eq!(bench.acquire(255, None, 300), (Ok(()), 0), "the newest stays");
}

#[test]
fn the_cache_is_bounded_by_bytes() {
    let bytes = blob(0, 1, 2).len();
    let bench = Bench::new(KEYS_MAX, 2 * bytes * 64);
    for id in 0..=255 {
        bench.acquire(id, Some(&blob(id, 1, 2)), u64::from(id)).0.unwrap();
    }
    for shard in &bench.cache.shards {
        let shard = lock(shard);
        let held: usize = shard.entries.values().map(|entry| entry.blob.len()).sum();
        assert!(held == shard.blob_bytes && held <= 2 * bytes);
    }
}
