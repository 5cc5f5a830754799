use std::cell::Cell;

use super::*;
use crate::dek::{Dek, DekTable, Provenance};
use crate::names::Keyspace;
use crate::seal::Header;
use crate::secret::Secret32;

mod flights;
mod model;
mod rig;

use rig::{Rig, SETTINGS, blob, name};

/// What a key takes of the cache's bytes.
fn entry_bytes() -> u64 {
    (blob(0, 1, 2).len() + settings::ENTRY_BYTES) as u64
}

#[test]
fn an_unknown_key_needs_its_blob_once() {
    let rig = Rig::new(SETTINGS);
    assert_eq!(rig.acquire(7, None, 0), (Err(KeyError::BlobRequired), 0));
    assert_eq!(rig.acquire(7, Some(&blob(7, 1, 2)), 0), (Ok(()), 1));
    assert_eq!(rig.acquire(7, None, 1), (Ok(()), 0));
    assert_eq!(rig.sweep(1), Counts { warm: 1, cool: 0, invalid: 0 });
    assert!(rig.cache.forget(&name(7)) && !rig.cache.forget(&name(7)));
    assert_eq!(rig.acquire(7, None, 2), (Err(KeyError::BlobRequired), 0));
}

#[test]
fn a_key_cools_when_its_time_is_over_and_opens_in_place() {
    let rig = Rig::new(SETTINGS);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(rig.sweep(999), Counts { warm: 1, cool: 0, invalid: 0 });
    assert_eq!(rig.sweep(1_000), Counts { warm: 0, cool: 1, invalid: 0 });
    assert_eq!(rig.check(), 0, "erased on expiry, not on access");
    assert_eq!(rig.acquire(7, None, 2_900), (Ok(()), 1));
    assert_eq!(rig.sweep(10_000), Counts { warm: 0, cool: 0, invalid: 1 });
}

#[test]
fn keys_are_counted_once_a_second_and_not_by_those_who_ask() {
    let rig = Rig::new(SETTINGS);
    rig.unlock(2, 20_000);
    for (id, dek) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        rig.activate(id, &blob(id, dek, 2), 0).unwrap();
    }
    assert_eq!(rig.cache.counts(), Counts::default(), "not yet");
    assert_eq!(rig.sweep(0), Counts { warm: 4, cool: 0, invalid: 0 });
    rig.cache.forget(&name(4));
    assert_eq!(rig.cache.counts(), Counts { warm: 4, cool: 0, invalid: 0 }, "as of the last sweep");
    assert_eq!(rig.sweep(1_000), Counts { warm: 0, cool: 3, invalid: 0 });
    rig.acquire(3, None, 9_999).0.unwrap();
    assert_eq!(rig.sweep(10_000), Counts { warm: 1, cool: 0, invalid: 2 }, "DEK 1 is over");
    rig.unlock(1, 20_000);
    assert_eq!(rig.sweep(10_001), Counts { warm: 1, cool: 0, invalid: 2 }, "not used since");
    rig.acquire(1, None, 10_002).0.unwrap();
    assert_eq!(rig.sweep(10_003), Counts { warm: 2, cool: 0, invalid: 1 });
}

#[test]
fn a_key_that_is_due_signs_and_is_refreshed_once_in_the_background() {
    let rig = Rig::new(SETTINGS);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(rig.acquire(7, None, 900), (Ok(()), 0), "signs at once");
    assert_eq!(rig.acquire(7, None, 901), (Ok(()), 0));
    assert_eq!(rig.next_refresh(), Some(name(7)));
    assert_eq!(rig.next_refresh(), None, "one was asked for");
    assert_eq!(rig.refresh(7, false, 902), (Ok(()), 1));
    assert_eq!(rig.refresh(7, false, 903), (Ok(()), 0), "no longer wanted");
    assert_eq!(rig.acquire(7, None, 1_801), (Ok(()), 0), "fresh until 1,802");
    assert_eq!(rig.next_refresh(), None);
}

#[test]
fn a_refresh_that_fails_is_not_tried_again_and_the_key_signs_to_its_end() {
    let rig = Rig::new(SETTINGS);
    rig.activate(7, &blob(7, 1, 2), 0).unwrap();
    rig.acquire(7, None, 900).0.unwrap();
    assert_eq!(rig.next_refresh(), Some(name(7)));
    let failing = rig::Batch { fails: Some(KeyError::Internal), ..rig.batch(901) };
    let refresh = Event::Refresh { forced: false };
    let refreshed = rig.cache.ask(&name(7), None, refresh, &failing);
    assert_eq!((refreshed.unwrap_err(), failing.opened.get()), (KeyError::Internal, 1));
    assert_eq!(rig.acquire(7, None, 999), (Ok(()), 0));
    assert_eq!(rig.next_refresh(), None);
    assert_eq!(rig.acquire(7, None, 1_000), (Ok(()), 1), "and then it is opened in place");
}

#[test]
fn a_cached_blob_that_does_not_open_makes_room_for_one_that_does() {
    let rig = Rig::new(SETTINGS);
    rig.activate(7, &blob(7, 1, 2), 0).unwrap();
    let failing = rig::Batch { fails: Some(KeyError::Invalid), ..rig.batch(1_000) };
    let signed = rig.cache.ask(&name(7), None, Event::Sign, &failing);
    assert_eq!(signed.unwrap_err(), KeyError::Invalid);
    assert_eq!(rig.acquire(7, None, 1_001), (Err(KeyError::BlobRequired), 0));
}

#[test]
fn a_forced_refresh_opens_whatever_is_cached_and_nothing_else() {
    let rig = Rig::new(SETTINGS);
    assert_eq!(rig.refresh(7, true, 0), (Err(KeyError::BlobRequired), 0));
    rig.activate(7, &blob(7, 1, 2), 0).unwrap();
    assert_eq!(rig.refresh(7, true, 10), (Ok(()), 1), "warm");
    rig.sweep(1_010);
    assert_eq!(rig.refresh(7, true, 1_020), (Ok(()), 1), "cool");
    assert_eq!(rig.acquire(7, None, 2_019), (Ok(()), 0));
    let locked = (Err(KeyError::UnlockRequired([1; 16])), 0);
    assert_eq!(rig.refresh(7, true, 10_000), locked);
}

#[test]
fn an_expired_dek_asks_for_an_unlock_and_a_new_one_makes_the_key_cool() {
    let rig = Rig::new(SETTINGS);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    let locked = (Err(KeyError::UnlockRequired([1; 16])), 0);
    assert_eq!(rig.acquire(7, None, 10_000), locked);
    rig.deks.sweep(10_000);
    assert_eq!(rig.acquire(7, None, 10_001), locked);
    rig.unlock(1, 20_000);
    assert_eq!(rig.acquire(7, None, 10_002), (Ok(()), 1));
}

#[test]
fn a_dek_that_expires_during_a_batch_signs_what_the_batch_holds_and_nothing_after_it() {
    let rig = Rig::new(Settings { key_hard_ttl_ms: 60_000, ..SETTINGS });
    rig.activate(7, &blob(7, 1, 2), 0).unwrap();
    let held = rig.cache.ask(&name(7), None, Event::Sign, &rig.batch(9_999)).unwrap().unwrap();
    rig.sweep(10_000);
    assert_eq!(rig.check(), 0, "the cache has erased its own");
    assert_eq!(Arc::strong_count(&held), 1, "and the batch erases the last at its end");
    for now_ms in [9_999, 10_000] {
        let next = rig.acquire(7, None, now_ms).0;
        assert_eq!(next, Err(KeyError::UnlockRequired([1; 16])), "whenever its batch began");
    }
}

#[test]
fn clocks_that_jump_end_keys_and_never_prolong_them() {
    let rig = Rig::new(SETTINGS);
    rig.activate(7, &blob(7, 1, 2), 5_000).unwrap();
    assert_eq!(rig.acquire(7, None, 4_000), (Ok(()), 0), "a batch that began before");
    let locked = (Err(KeyError::UnlockRequired([1; 16])), 0);
    assert_eq!(rig.acquire(7, None, u64::MAX), locked, "asleep for long");
    assert_eq!(rig.check(), 0);
}

#[test]
fn a_blob_under_a_locked_dek_is_not_kept() {
    let rig = Rig::new(SETTINGS);
    let locked = (Err(KeyError::UnlockRequired([9; 16])), 0);
    assert_eq!(rig.acquire(7, Some(&blob(7, 9, 2)), 0), locked);
    assert_eq!(rig.acquire(7, None, 0), (Err(KeyError::BlobRequired), 0));
}

#[test]
fn a_hostile_blob_for_a_cached_key_is_refused_and_what_was_cached_stays() {
    let rig = Rig::new(SETTINGS);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(rig.acquire(7, Some(&blob(7, 1, 3)), 1).0, Err(KeyError::Conflict));
    assert_eq!(rig.acquire(7, Some(&blob(8, 1, 2)), 1).0, Err(KeyError::Invalid));
    assert_eq!(rig.acquire(7, Some(b"junk"), 1).0, Err(KeyError::Invalid));
    assert_eq!(rig.activate(7, &blob(7, 1, 3), 1), Err(KeyError::Conflict));
    assert_eq!(rig.acquire(7, None, 1), (Ok(()), 0), "what was cached stays");
}

#[test]
fn a_blob_sealed_again_takes_the_place_of_one_that_cannot_be_opened() {
    let rig = Rig::new(SETTINGS);
    rig.unlock(2, 20_000);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    assert_eq!(rig.acquire(7, Some(&blob(7, 2, 2)), 1), (Ok(()), 0), "not needed yet");
    assert_eq!(rig.acquire(7, Some(&blob(7, 2, 2)), 10_000), (Ok(()), 1));
    assert_eq!(rig.acquire(7, None, 10_001), (Ok(()), 0));
}

#[test]
fn an_activated_blob_takes_the_place_of_one_that_could_still_be_opened() {
    let rig = Rig::new(SETTINGS);
    rig.unlock(2, 20_000);
    rig.activate(7, &blob(7, 1, 2), 0).unwrap();
    rig.activate(7, &blob(7, 2, 2), 1).unwrap();
    rig.sweep(10_000);
    assert_eq!(rig.acquire(7, None, 10_000), (Ok(()), 1), "DEK 1 is over, and no longer matters");
}

#[test]
fn uses_run_out_and_the_key_is_opened_again() {
    let rig = Rig::new(SETTINGS);
    rig.acquire(7, Some(&blob(7, 1, 2)), 0).0.unwrap();
    let opened: u32 = (0..9).map(|_| rig.acquire(7, None, 1).1).sum();
    assert_eq!(opened, 0);
    assert_eq!(rig.acquire(7, None, 1), (Ok(()), 1));
}

#[test]
fn an_eviction_storm_opens_each_key_once_and_keeps_to_the_bounds() {
    let rig = Rig::new(Settings { keys: 64, warm_keys: 32, ..SETTINGS });
    for round in 0..4 {
        for id in 0..=255 {
            let now_ms = 1_000 * (256 * round + u64::from(id));
            rig.unlock(1, now_ms + 10_000);
            assert_eq!(rig.acquire(id, Some(&blob(id, 1, 2)), now_ms), (Ok(()), 1));
            assert!(rig.check() <= 32);
        }
    }
    let last = 1_000 * 1_023;
    let Counts { warm, cool, invalid } = rig.sweep(last);
    assert_eq!((warm + cool, invalid), (64, 0));
    assert_eq!(rig.acquire(255, None, last), (Ok(()), 0), "the newest is warm");
    assert_eq!(rig.acquire(192, None, last), (Ok(()), 1), "the oldest of 64 is cool");
    assert_eq!(rig.acquire(191, None, last).0, Err(KeyError::BlobRequired), "one more is gone");
}

#[test]
fn the_cache_is_bounded_by_bytes() {
    let rig = Rig::new(Settings { bytes: 5 * entry_bytes(), ..SETTINGS });
    for id in 0..=255 {
        rig.acquire(id, Some(&blob(id, 1, 2)), 1).0.unwrap();
        rig.check();
    }
    assert_eq!(rig.sweep(1).warm, 5);
}

#[test]
fn the_prefetcher_refreshes_keys_in_use_and_counts_what_it_skips() {
    let settings = Settings { prefetch_in_flight: 2, ..SETTINGS };
    let rig = Rig::new(settings);
    for id in 0..4 {
        rig.activate(id, &blob(id, 1, 2), 0).unwrap();
    }
    for id in 1..4 {
        rig.acquire(id, None, 790).0.unwrap();
    }
    rig.sweep(799);
    assert_eq!(rig.next_refresh(), None, "not yet");
    rig.sweep(800);
    let queued = [rig.next_refresh().unwrap(), rig.next_refresh().unwrap()];
    assert_eq!((queued, rig.next_refresh()), ([name(1), name(2)], None));
    let [counted] = rig.cache.stats.snapshot().try_into().unwrap();
    assert_eq!((&*counted.keyspace, counted.prefetch_scanned), ("default", 8));
    assert_eq!((counted.prefetch_triggered, counted.prefetch_skipped), (2, 1));
    for queued in queued {
        assert_eq!(rig.refresh(queued.key_id[0], false, 801), (Ok(()), 1));
    }
    rig.sweep(802);
    assert_eq!((rig.next_refresh(), rig.next_refresh()), (Some(name(3)), None), "its turn");
    rig.cache.configure(Settings { prefetch_in_flight: 0, ..settings }, 802).unwrap_err();
}

#[test]
fn settings_hold_at_once_and_none_if_one_is_out_of_range() {
    let ceilings = Settings { keys: 1_000_000, warm_keys: 100_000, ..SETTINGS };
    let valid = Settings { prefetch_scan_ms: 1_000, ..SETTINGS };
    let deks = DekTable::default();
    let rig = Rig { deks, cache: KeyCache::with_shards(1, valid, ceilings) };
    rig.unlock(1, 10_000);
    for id in 0..4 {
        rig.activate(id, &blob(id, 1, 2), 0).unwrap();
    }
    let bad = Settings { key_hard_ttl_ms: 500, sign_wait_ms: 4, key_soft_ttl_ms: 400, ..valid };
    assert_eq!(rig.cache.configure(bad, 600), Err(10));
    assert_eq!(rig.cache.settings(), valid);
    assert_eq!(rig.acquire(0, None, 600), (Ok(()), 0));
    let good = Settings { sign_wait_ms: 2, prefetch_window_ms: 0, ..bad };
    rig.cache.configure(good, 600).unwrap();
    assert_eq!(rig.cache.settings(), good);
    assert_eq!(rig.acquire(0, None, 600), (Ok(()), 1), "a lower limit holds for open keys");
    let few = Settings { keys: SHARDS as u64, warm_keys: SHARDS as u64, ..good };
    rig.cache.configure(few, 600).unwrap();
    rig.check();
}
