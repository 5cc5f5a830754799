//! Settings of the enclave's key cache, as `CacheSettings` of the contract names them. What is absent
//! keeps what the enclave has; ceilings are pinned in its image and judged there.

use serde::{Deserialize, Serialize};

/// One week, the highest ceiling of time that pins may hold.
const TTL_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
/// The highest ceiling of uses that pins may hold.
const USES_MAX: u64 = u32::MAX as u64;
/// A share for each of the cache's 256 shards is the least that can be asked for.
const SHARDS: u64 = 256;
/// Room for one key in each shard: 512 bytes beside a blob of 2,048.
const BYTES_MIN: u64 = SHARDS * (512 + 2_048);

/// The key cache of the enclave. All optional: without any, nothing is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cache {
    /// Age at which a use also refreshes the key.
    pub key_soft_ttl_ms: Option<u64>,
    /// Age at which the plain key is erased.
    pub key_hard_ttl_ms: Option<u64>,
    /// Signatures that one opening allows.
    pub key_uses: Option<u64>,
    /// Life of a DEK.
    pub dek_hard_ttl_ms: Option<u64>,
    /// Signatures left below which the key is refreshed.
    pub low_water_uses: Option<u64>,
    /// Time before the soft limit in which keys in use are refreshed ahead.
    pub prefetch_window_ms: Option<u64>,
    /// By how much of it keys are spread, 0..=50.
    pub prefetch_jitter_percent: Option<u64>,
    /// Refreshes that may wait for a worker (`maxInFlight`), 0..=4096; 0: none ahead of the soft limit.
    pub prefetch_in_flight: Option<u64>,
    /// How often the prefetcher looks, 1000..=60000.
    pub prefetch_scan_ms: Option<u64>,
    /// Longest wait of a batch for other workers' openings (`signWaitBudget`), 2..=3.
    pub sign_wait_ms: Option<u64>,
    /// Age of an opening after which nobody waits for it (`hard_refresh_budget`), 3..=5.
    pub hard_refresh_ms: Option<u64>,
    /// Keys cached at most, 256..=1048576.
    pub keys: Option<u64>,
    /// Bytes of memory for cached keys, 655360..=1073741824.
    pub bytes: Option<u64>,
    /// Keys in plaintext at most, 256..=131072.
    pub warm_keys: Option<u64>,
}

// === impl Cache ===

impl Cache {
    /// Every setting with its name, in the order of the contract's field numbers, which begin at 1.
    pub(crate) fn values(&self) -> [(&'static str, Option<u64>); 14] {
        [
            ("keySoftTtlMs", self.key_soft_ttl_ms),
            ("keyHardTtlMs", self.key_hard_ttl_ms),
            ("keyUses", self.key_uses),
            ("dekHardTtlMs", self.dek_hard_ttl_ms),
            ("lowWaterUses", self.low_water_uses),
            ("prefetchWindowMs", self.prefetch_window_ms),
            ("prefetchJitterPercent", self.prefetch_jitter_percent),
            ("prefetchInFlight", self.prefetch_in_flight),
            ("prefetchScanMs", self.prefetch_scan_ms),
            ("signWaitMs", self.sign_wait_ms),
            ("hardRefreshMs", self.hard_refresh_ms),
            ("keys", self.keys),
            ("bytes", self.bytes),
            ("warmKeys", self.warm_keys),
        ]
    }

    /// What can be known without the enclave: decision 13. The pins may allow less.
    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        let half = |value: Option<u64>, most: u64| value.map_or(most, |value| value.min(most)) / 2;
        let ranges = [
            (1, self.key_hard_ttl_ms.map_or(TTL_MS_MAX, |hard| hard.min(TTL_MS_MAX))),
            (1, TTL_MS_MAX),
            (1, USES_MAX),
            (1, TTL_MS_MAX),
            (0, half(self.key_uses, USES_MAX)),
            (0, half(self.key_soft_ttl_ms, TTL_MS_MAX)),
            (0, 50),
            (0, 4_096),
            (1_000, 60_000),
            (2, 3),
            (3, 5),
            (SHARDS, 1_048_576),
            (BYTES_MIN, 1 << 30),
            (SHARDS, 131_072),
        ];
        for ((name, value), (low, high)) in self.values().into_iter().zip(ranges) {
            let Some(value) = value else { continue };
            if !(low..=high).contains(&value) {
                let why = match name {
                    "keySoftTtlMs" => "; it is at most keyHardTtlMs",
                    "lowWaterUses" => "; it is at most half of keyUses",
                    "prefetchWindowMs" => "; it is at most half of keySoftTtlMs",
                    _ => "",
                };
                errors.push(format!("cache.{name}: {value} is not in {low}..={high}{why}"));
            }
        }
    }
}
