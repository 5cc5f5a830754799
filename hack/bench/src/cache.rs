//! The key cache: what it costs to open a key again, to use one, to drop and to sweep many, and how
//! much memory a key takes. In this process, on the enclave's own parts; time is what we say it is.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use sigil_enclave::key_cache::settings::Settings;
use sigil_enclave::key_cache::slot::Event;
use sigil_enclave::key_cache::{KeyCache, settings};
use sigil_enclave::slab::WARM_KEYS_MAX;

use crate::stats::{aim, median, quantile, verdict};
use crate::{clock, machine};

mod keys;
mod memory;

use keys::{Keys, shuffled};
use memory::Memory;

/// p95 of opening a key again, in ms.
const REOPEN_P95_MS_MAX: f64 = 2.0;
/// Bytes of a key beyond its blob, which is aimed at and does not fail a strict run.
const BYTES_BEYOND_BLOB_MAX: f64 = 512.0;
/// A slot of the slab, which is mapped at boot whether used or not: a secret and its tag.
const SLOT_BYTES: f64 = 48.0;
/// Resident MiB with [`Arguments::many`] keys that are sealed only.
const MANY_MIB_MAX: f64 = 1_024.0;
/// The last use before the soft limit, in the prefetcher's window.
const IN_USE_BEFORE_SOFT_MS: u64 = 60_000;
/// Keys that are plain at once while the cache is filled; the slab holds more.
const PLAIN_AT_ONCE: usize = 50_000;
/// Uses of a key that are timed together.
const USES_TOGETHER: usize = 1_000;
/// What the pins allow by default, and memory without end.
const CEILINGS: Settings = Settings {
    key_soft_ttl_ms: 900_000,
    key_hard_ttl_ms: 960_000,
    key_uses: 1_000_000,
    dek_hard_ttl_ms: 3_600_000,
    low_water_uses: 0,
    prefetch_window_ms: 0,
    prefetch_jitter_percent: 0,
    prefetch_in_flight: 0,
    prefetch_scan_ms: 0,
    sign_wait_ms: 0,
    hard_refresh_ms: 0,
    keys: u64::MAX,
    bytes: u64::MAX,
    warm_keys: WARM_KEYS_MAX as u64,
};
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Keys cached while opening, using, dropping and sweeping are timed.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Keys cached, sealed only, while memory is looked at.
    #[arg(long, default_value_t = 1_000_000)]
    many: usize,
}

/// A cache with its keys at a time of ours.
struct Filled<'a> {
    keys: &'a Keys,
    cache: KeyCache,
    now_ms: u64,
    blob_bytes: f64,
    before: Memory,
    sealed: Memory,
}

/// Prints the table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let keys = Keys::new()?;
    {
        let filled = Filled::new(&keys, arguments.keys)?;
        println!("cache:   {} keys, {:.0} bytes a blob", arguments.keys, filled.blob_bytes);
        filled.print_sealed_bytes();
        filled.reopen(arguments.keys)?;
        filled.print_plain_bytes(arguments.keys)?;
        filled.hit(arguments.keys)?;
        filled.sweep(arguments.keys)?;
        filled.storm(arguments.keys)?;
    }
    let filled = Filled::new(&keys, arguments.many)?;
    let resident = filled.sealed.resident_bytes / MIB;
    println!(
        "{:<44} {resident:>10.0} MiB resident  target <= {MANY_MIB_MAX}: {}",
        format!("{} keys, sealed only", arguments.many),
        verdict(resident, MANY_MIB_MAX)
    );
    Ok(())
}

impl<'a> Filled<'a> {
    /// Puts keys in and lets time pass until all are sealed only.
    fn new(keys: &'a Keys, count: usize) -> Result<Self> {
        let before = memory::now()?;
        // Room for twice as many keys, so that none is dropped however they spread.
        let cache = cache_of(2 * count);
        let (mut now_ms, mut blob_bytes) = (0, 0.0);
        for number in 0..count {
            let blob = keys.blob(number)?;
            blob_bytes += blob.len() as f64 / count as f64;
            acquire(keys, &cache, number, Some(&blob), now_ms)?;
            if (number + 1) % PLAIN_AT_ONCE == 0 || number + 1 == count {
                now_ms += CEILINGS.key_hard_ttl_ms;
                cache.sweep(now_ms, keys.leased(now_ms));
            }
        }
        let counts = cache.counts();
        ensure!(counts.warm == 0 && counts.cool == count as u64, "a filled cache: {counts:?}");
        let sealed = memory::now()?;
        Ok(Self { keys, cache, now_ms, blob_bytes, before, sealed })
    }

    fn print_sealed_bytes(&self) {
        let count = self.cache.counts().cool as f64;
        let heap = (self.sealed.heap_bytes - self.before.heap_bytes) / count - self.blob_bytes;
        print_bytes("a sealed key beyond its blob", heap);
        let resident = (self.sealed.resident_bytes - self.before.resident_bytes) / count;
        println!(
            "{:<44} {resident:>10.0} bytes resident",
            "  the same, with its blob, page by page"
        );
    }

    fn print_plain_bytes(&self, count: usize) -> Result<()> {
        let now = memory::now()?;
        let grown = |of: fn(&Memory) -> f64| (of(&now) - of(&self.before)) / count as f64;
        let heap = grown(|at| at.heap_bytes) - self.blob_bytes;
        print_bytes("a plain key beyond its blob, slot included", heap + SLOT_BYTES);
        let resident = grown(|at| at.resident_bytes);
        println!(
            "{:<44} {resident:>10.0} bytes resident",
            "  the same, with its blob, page by page"
        );
        Ok(())
    }

    /// Opens every key again, in an order without a pattern.
    fn reopen(&self, count: usize) -> Result<()> {
        let mut took_us = Vec::with_capacity(count);
        let cpu = clock::thread_cpu_us();
        for number in shuffled(count) {
            let started = Instant::now();
            acquire(self.keys, &self.cache, number, None, self.now_ms)?;
            took_us.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let cpu_us = (clock::thread_cpu_us() - cpu) / count as f64;
        self.cache.sweep(self.now_ms, self.keys.leased(self.now_ms));
        ensure!(self.cache.counts().warm == count as u64, "not every key was opened");
        let p95 = quantile(&took_us, 0.95);
        println!(
            "{:<44} {:>10.1} us p50, {p95:.1} p95, {:.1} p99, {cpu_us:.1} CPU  target p95 <= {REOPEN_P95_MS_MAX} ms: {}",
            "opening a sealed key again",
            median(&took_us),
            quantile(&took_us, 0.99),
            verdict(p95 / 1e3, REOPEN_P95_MS_MAX),
        );
        Ok(())
    }

    /// Uses plain keys.
    fn hit(&self, count: usize) -> Result<()> {
        let mut took_us = Vec::new();
        for numbers in shuffled(count).chunks(USES_TOGETHER) {
            let started = clock::thread_cpu_us();
            for number in numbers {
                acquire(self.keys, &self.cache, *number, None, self.now_ms)?;
            }
            took_us.push((clock::thread_cpu_us() - started) / numbers.len() as f64);
        }
        println!("{:<44} {:>10.3} us CPU", "finding a plain key", median(&took_us));
        Ok(())
    }

    /// Looks at every plain key: none is due; all are in use and due to be opened again; all are
    /// to be erased.
    fn sweep(&self, count: usize) -> Result<()> {
        let in_use_ms = self.now_ms + CEILINGS.key_soft_ttl_ms - IN_USE_BEFORE_SOFT_MS;
        for (what, now_ms) in [
            ("a sweep with nothing to do", self.now_ms),
            ("a sweep in which every key is due", in_use_ms + 1_000),
            ("a sweep that erases", self.now_ms + CEILINGS.key_hard_ttl_ms),
        ] {
            if now_ms > in_use_ms && now_ms < self.now_ms + CEILINGS.key_soft_ttl_ms {
                for number in 0..count {
                    acquire(self.keys, &self.cache, number, None, in_use_ms)?;
                }
            }
            let started = clock::thread_cpu_us();
            self.cache.sweep(now_ms, self.keys.leased(now_ms));
            let took_ms = (clock::thread_cpu_us() - started) / 1e3;
            println!(
                "{what:<44} {:>10.1} ms CPU a million plain keys",
                took_ms * 1e6 / count as f64
            );
        }
        Ok(())
    }

    /// New keys arrive at a full cache, each of which drops an old one.
    fn storm(&self, count: usize) -> Result<()> {
        let room = count / 2;
        let full = cache_of(room);
        // Half of it, so that no shard is full yet; then until all are.
        let fill = self.arrive(&full, 0, room / 2)?;
        self.arrive(&full, room / 2, room)?;
        let storm = self.arrive(&full, room + room / 2, room / 2)?;
        full.sweep(self.now_ms, self.keys.leased(self.now_ms));
        let held = full.counts().warm;
        ensure!(held <= room as u64, "{held} keys in room for {room}");
        println!(
            "{:<44} {storm:>10.1} us CPU, {:.1} more than without",
            "a new key, where one is dropped",
            storm - fill,
        );
        Ok(())
    }

    /// CPU of a new key in microseconds, its blob made beforehand.
    fn arrive(&self, cache: &KeyCache, first: usize, count: usize) -> Result<f64> {
        let blobs = (first..first + count).map(|number| self.keys.blob(number));
        let blobs = blobs.collect::<Result<Vec<_>>>()?;
        let started = clock::thread_cpu_us();
        for (at, blob) in blobs.iter().enumerate() {
            acquire(self.keys, cache, first + at, Some(blob), self.now_ms)?;
        }
        Ok((clock::thread_cpu_us() - started) / count as f64)
    }
}

/// A cache with the baseline's settings and room for so many keys.
fn cache_of(keys: usize) -> KeyCache {
    let settings = Settings { keys: keys as u64, ..settings::baseline(&CEILINGS) };
    KeyCache::new(settings, CEILINGS)
}

/// What a signature asks of the cache.
fn acquire(
    keys: &Keys,
    cache: &KeyCache,
    number: usize,
    blob: Option<&[u8]>,
    now_ms: u64,
) -> Result<()> {
    let name = keys.name(number);
    let used = cache.ask(&name, blob, Event::Sign, &keys.opener(now_ms));
    used.map(drop).map_err(|error| anyhow!("key {number}: {error:?}"))
}

fn print_bytes(what: &str, bytes: f64) {
    println!(
        "{what:<44} {bytes:>10.0} bytes  aim <= {BYTES_BEYOND_BLOB_MAX}: {}",
        aim(bytes, BYTES_BEYOND_BLOB_MAX)
    );
}
