//! Settings of the cache: their baseline, ceilings and ranges. The struct is the contract's own,
//! so that what is asked for, what holds and what is reported are one thing.

use rustix::system::sysinfo;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_protocol::bounds::BLOB_BYTES_MAX;
pub use sigil_enclave_protocol::v1::CacheSettings as Settings;

use super::SHARDS;
use super::prefetch::REFRESHES_MAX;
use crate::slab::WARM_KEYS_MAX;

/// Keys of the whole cache.
pub const KEYS_MAX: u64 = 1_048_576;
/// Memory for cached keys: a million of them, and never more than a quarter of the machine's.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Memory that a cached key takes beside its blob, upper bound; `examples/key_cache.rs` measures.
pub const ENTRY_BYTES: usize = 512;

/// What holds from boot on: the documents' baseline, or what is pinned where that is less.
pub fn baseline(ceilings: &Settings) -> Settings {
    let uses = ceilings.key_uses.min(1_000_000);
    let hard_ms = ceilings.key_hard_ttl_ms.min(16 * 60_000);
    let soft_ms = ceilings.key_soft_ttl_ms.min(15 * 60_000).min(hard_ms);
    Settings {
        key_soft_ttl_ms: soft_ms,
        key_hard_ttl_ms: hard_ms,
        key_uses: uses,
        dek_hard_ttl_ms: ceilings.dek_hard_ttl_ms.min(60 * 60_000),
        low_water_uses: 500.min(uses / 2),
        prefetch_window_ms: 120_000.min(soft_ms / 2),
        prefetch_jitter_percent: 10,
        // At 2,000 a second the whole of [`WARM_KEYS_MAX`] is refreshed within the window.
        prefetch_in_flight: 2_048,
        prefetch_scan_ms: 1_000,
        sign_wait_ms: 3,
        hard_refresh_ms: 3,
        ..*ceilings
    }
}

/// The highest settings that an image with these pins takes on this machine.
pub fn ceilings(pinned: &Ceilings) -> Settings {
    let memory = sysinfo();
    let memory_bytes = memory.totalram.saturating_mul(memory.mem_unit.into());
    Settings {
        key_soft_ttl_ms: u64::from(pinned.key_soft_s) * 1_000,
        key_hard_ttl_ms: u64::from(pinned.key_hard_s) * 1_000,
        key_uses: pinned.key_uses.into(),
        dek_hard_ttl_ms: u64::from(pinned.dek_hard_s) * 1_000,
        keys: KEYS_MAX,
        bytes: BYTES_MAX.min(memory_bytes / 4),
        warm_keys: WARM_KEYS_MAX as u64,
        ..Settings::default()
    }
}

/// The number of the first setting that is out of its range.
///
/// # Errors
/// That number.
pub fn check(settings: &Settings, ceilings: &Settings) -> Result<(), u32> {
    let (s, most) = (settings, ceilings);
    let shards = SHARDS as u64;
    // In the order of their numbers.
    let ranges = [
        (s.key_soft_ttl_ms, 1, most.key_soft_ttl_ms.min(s.key_hard_ttl_ms)),
        (s.key_hard_ttl_ms, 1, most.key_hard_ttl_ms),
        (s.key_uses, 1, most.key_uses),
        (s.dek_hard_ttl_ms, 1, most.dek_hard_ttl_ms),
        (s.low_water_uses, 0, s.key_uses / 2),
        (s.prefetch_window_ms, 0, s.key_soft_ttl_ms / 2),
        (s.prefetch_jitter_percent, 0, 50),
        (s.prefetch_in_flight, 0, REFRESHES_MAX as u64),
        (s.prefetch_scan_ms, 1_000, 60_000),
        (s.sign_wait_ms, 2, 3),
        (s.hard_refresh_ms, 3, 5),
        (s.keys, shards, most.keys),
        (s.bytes, shards * (ENTRY_BYTES + BLOB_BYTES_MAX) as u64, most.bytes),
        (s.warm_keys, shards, most.warm_keys),
    ];
    let refused = (1..).zip(ranges).find(|(_, (value, least, most))| value < least || value > most);
    refused.map_or(Ok(()), |(field, _)| Err(field))
}

#[cfg(test)]
mod tests;
