//! The cache against a reference model: the same random histories, time included, through both.
//!
//! The model knows nothing of slots, lists or flights. It is a map of what each key went through,
//! with absolute times, and decides from that alone what must be answered and whether a blob must be
//! opened for it. Of shards it knows which keys share one, since each has its part of the bounds. Of
//! the prefetcher it knows which keys it must take, which it may, and how many. Beside it, three
//! promises are checked from the outside only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use sigil_enclave_protocol::v1::KeyspaceStats;

use super::rig::Batch;
use super::*;

const KEYS: u8 = 16;
/// Between the ids of two keys, so that they have all of the prefetcher's jitter.
const STRIDE: u8 = 17;
const DEKS: u8 = 3;
const PUBLIC_KEY: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Do {
    Pass(u64),
    /// Key (an id), the DEK of a blob that comes along, and whether blobs open in this batch.
    Sign(u8, Option<u8>, bool),
    Activate(u8, u8),
    ForceRefresh(u8),
    /// A worker takes one refresh from the queue.
    Refresh(bool),
    Forget(u8),
    Sweep,
    Unlock(u8, u64),
    /// The DEK turns out to have been a fake: another one takes its id.
    Replace(u8, u64),
    SweepDeks,
    Configure(u8),
}

/// What the model says of an answer.
type Said = Result<(), KeyError>;

/// A DEK as the model sees it; `born` tells those apart that had the same id.
#[derive(Clone, Copy)]
struct ModelDek {
    born: u32,
    until_ms: u64,
}

struct ModelKey {
    dek: u8,
    dek_born: u32,
    /// When the plain key that is in memory was opened, and when it was used since then.
    plain: Option<(u64, Vec<u64>)>,
    refresh_asked: bool,
    used_ms: u64,
}

struct Model {
    now_ms: u64,
    settings: Settings,
    /// Which keys share their part of the bounds, and how many parts there are.
    parts: BTreeMap<u8, usize>,
    shards: u64,
    /// When the prefetcher looks next.
    look_ms: u64,
    /// All DEKs that ever were, newest last; the table may have dropped those that are over.
    deks: BTreeMap<u8, Vec<ModelDek>>,
    dropped: Vec<u8>,
    keys: BTreeMap<u8, ModelKey>,
    queue: VecDeque<u8>,
    opened: u32,
}

impl Model {
    fn dek(&self, id: u8) -> Option<ModelDek> {
        let newest = self.deks.get(&id).and_then(|all| all.last()).copied();
        newest.filter(|dek| self.now_ms < dek.until_ms)
    }

    fn dek_of(&self, key: &ModelKey) -> Option<ModelDek> {
        self.dek(key.dek).filter(|dek| dek.born == key.dek_born)
    }

    /// Forgets the plain key if it may no longer be used now.
    fn look(&mut self, id: u8) {
        let Some(key) = self.keys.get(&id) else { return };
        let valid = self.dek_of(key).is_some();
        let over = key.plain.as_ref().is_some_and(|(opened_ms, uses)| {
            let aged = self.now_ms >= opened_ms + self.settings.key_hard_ttl_ms;
            aged || !valid || uses.len() as u64 >= self.settings.key_uses
        });
        let newest = self.dek(self.keys[&id].dek);
        let key = self.keys.get_mut(&id).unwrap();
        if over {
            key.plain = None;
        }
        if !valid && let Some(newest) = newest {
            key.dek_born = newest.born;
            key.plain = None;
        }
    }

    fn open(&mut self, dek: u8, fails: bool) -> Said {
        if self.dek(dek).is_none() {
            return Err(KeyError::UnlockRequired([dek; 16]));
        }
        self.opened += 1;
        if fails { Err(KeyError::Invalid) } else { Ok(()) }
    }

    fn warm(&self) -> Vec<u8> {
        self.keys.iter().filter(|(_, key)| key.plain.is_some()).map(|(id, _)| *id).collect()
    }

    /// Of one part: used longest ago, by the second, then by name.
    fn oldest(&self, part: usize, among: impl Fn(&ModelKey) -> bool) -> Option<u8> {
        let keys = self.keys.iter().filter(|(id, key)| self.parts[id] == part && among(key));
        keys.min_by_key(|(id, key)| (key.used_ms / 1_000, **id)).map(|(id, _)| *id)
    }

    fn count(&self, part: usize, among: impl Fn(&ModelKey) -> bool) -> u64 {
        self.keys.iter().filter(|(id, key)| self.parts[id] == part && among(key)).count() as u64
    }

    /// Makes room for so many more plain keys in a part.
    fn make_room(&mut self, part: usize, more: u64) {
        let warm = |key: &ModelKey| key.plain.is_some();
        while self.count(part, |_| true) + more > self.settings.keys / self.shards {
            let cool = self.oldest(part, |key| !warm(key));
            let victim = cool.or_else(|| self.oldest(part, |_| true)).unwrap();
            self.keys.remove(&victim);
        }
        while self.count(part, warm) + more > self.settings.warm_keys / self.shards {
            let victim = self.oldest(part, warm).unwrap();
            self.keys.get_mut(&victim).unwrap().plain = None;
        }
    }

    fn put(&mut self, id: u8, dek: u8) {
        self.keys.remove(&id);
        self.make_room(self.parts[&id], 1);
        let dek_born = self.dek(dek).unwrap().born;
        let plain = Some((self.now_ms, Vec::new()));
        let used_ms = self.now_ms;
        self.keys.insert(id, ModelKey { dek, dek_born, plain, refresh_asked: false, used_ms });
    }

    fn sign(&mut self, id: u8, blob: Option<u8>, fails: bool) -> Said {
        self.look(id);
        let Some(key) = self.keys.get(&id) else {
            let dek = blob.ok_or(KeyError::BlobRequired)?;
            self.open(dek, fails)?;
            self.put(id, dek);
            self.use_plain(id);
            return Ok(());
        };
        let (dek, valid) = (key.dek, self.dek_of(key).is_some());
        if let Some(other) = blob
            && other != dek
            && !valid
        {
            self.open(other, fails)?;
            self.put(id, other);
        } else if key.plain.is_none() {
            let opened = self.open(dek, fails);
            if opened == Err(KeyError::Invalid) {
                self.keys.remove(&id);
            }
            opened?;
            self.put(id, dek);
        }
        self.use_plain(id);
        Ok(())
    }

    fn use_plain(&mut self, id: u8) {
        let (now_ms, settings) = (self.now_ms, self.settings);
        let key = self.keys.get_mut(&id).unwrap();
        key.used_ms = now_ms;
        let (opened_ms, uses) = key.plain.as_mut().unwrap();
        uses.push(now_ms);
        let left = settings.key_uses - uses.len() as u64;
        let due = now_ms >= *opened_ms + settings.key_soft_ttl_ms || left < settings.low_water_uses;
        if due && left > 0 && !key.refresh_asked {
            key.refresh_asked = true;
            self.queue.push_back(id);
        }
    }

    fn refresh(&mut self, id: u8, forced: bool, fails: bool) -> Said {
        self.look(id);
        let key = self.keys.get(&id).ok_or(KeyError::BlobRequired)?;
        if self.dek_of(key).is_none() {
            return Err(KeyError::UnlockRequired([key.dek; 16]));
        }
        let wanted = match &key.plain {
            Some((opened_ms, _)) => key.refresh_asked || forced && *opened_ms < self.now_ms,
            None => forced,
        };
        if wanted {
            let dek = key.dek;
            let opened = self.open(dek, fails);
            if opened == Err(KeyError::Invalid) {
                self.keys.remove(&id);
            }
            opened?;
            self.put(id, dek);
        }
        Ok(())
    }

    fn sweep(&mut self) {
        for id in self.warm() {
            // A sweep does not look for newer DEKs, but a plain key of an older one is over.
            let key = &self.keys[&id];
            let (valid, hard_ms) = (self.dek_of(key).is_some(), self.settings.key_hard_ttl_ms);
            let over = key.plain.as_ref().is_some_and(|(opened_ms, uses)| {
                self.now_ms >= opened_ms + hard_ms || uses.len() as u64 >= self.settings.key_uses
            });
            if over || !valid {
                self.keys.get_mut(&id).unwrap().plain = None;
            }
        }
    }

    fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        for part in self.parts.values().copied().collect::<BTreeSet<_>>() {
            self.make_room(part, 0);
        }
    }

    fn counts(&self) -> Counts {
        let warm = self.warm().len() as u64;
        let valid = self.keys.values().filter(|key| self.dek_of(key).is_some()).count() as u64;
        Counts { warm, cool: valid - warm, invalid: self.keys.len() as u64 - valid }
    }

    fn drop_deks(&mut self) {
        self.dropped = (0..DEKS).filter(|id| self.dek(*id).is_none()).collect();
    }

    /// Takes what the prefetcher queued, if it may. Which of the keys within its jitter it takes is
    /// left open, and which where there is no room for all.
    fn prefetch(&mut self, queued: &[u8], counted: Looked) {
        let settings = self.settings;
        let is_time = self.now_ms >= self.look_ms;
        if is_time {
            self.look_ms = self.now_ms + settings.prefetch_scan_ms;
        }
        if !is_time || settings.prefetch_in_flight == 0 {
            assert_eq!((queued, counted), ([].as_slice(), Looked::default()), "it is not its time");
            return;
        }
        let window_ms = settings.prefetch_window_ms;
        let jitter_ms = window_ms * settings.prefetch_jitter_percent / 100;
        let within = |ahead_ms: u64| -> BTreeSet<u8> {
            let wanted = self.keys.iter().filter(|(_, key)| {
                let in_use = self.now_ms - key.used_ms < window_ms && !key.refresh_asked;
                let nears =
                    |opened_ms: u64| self.now_ms + ahead_ms >= opened_ms + settings.key_soft_ttl_ms;
                in_use && key.plain.as_ref().is_some_and(|(opened_ms, _)| nears(*opened_ms))
            });
            wanted.map(|(id, _)| *id).collect()
        };
        let (must, may) = (within(window_ms - jitter_ms), within(window_ms + jitter_ms));
        let room = settings.prefetch_in_flight.saturating_sub(self.queue.len() as u64);
        let new: BTreeSet<_> = queued.iter().copied().collect();
        assert!(new.len() == queued.len() && new.is_subset(&may), "{queued:?} of {may:?}");
        assert!(new.len() as u64 <= room, "{queued:?} beside {:?}", self.queue);
        assert!(must.is_subset(&new) || new.len() as u64 == room, "{queued:?}, not {must:?}");
        assert_eq!(counted.scanned, self.warm().len() as u64);
        assert_eq!(counted.triggered, new.len() as u64);
        let (least, most) = (must.difference(&new).count(), may.difference(&new).count());
        assert!((least as u64..=most as u64).contains(&counted.skipped), "{counted:?}");
        for id in queued {
            self.keys.get_mut(id).unwrap().refresh_asked = true;
            self.queue.push_back(*id);
        }
    }

    fn unlock(&mut self, id: u8, for_ms: u64, replace: bool) {
        let until_ms = self.now_ms + for_ms;
        let forgotten = self.dropped.contains(&id);
        self.dropped.retain(|dropped| *dropped != id);
        let all = self.deks.entry(id).or_default();
        match all.last_mut() {
            Some(dek) if !replace && !forgotten => dek.until_ms = dek.until_ms.max(until_ms),
            _ => {
                let born = u32::try_from(all.len()).unwrap();
                all.push(ModelDek { born, until_ms });
            }
        }
    }
}

/// What the prefetcher counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Looked {
    scanned: u64,
    triggered: u64,
    skipped: u64,
}

/// The promises, from the outside: opened when, used how often.
#[derive(Default)]
struct Witness {
    opened: BTreeMap<u8, (u64, u64)>,
    done: Done,
}

/// What histories came to.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    steps: u64,
    signed: u64,
    prefetched: u64,
    skipped: u64,
}

struct Pair {
    rig: Rig,
    model: Model,
    witness: Witness,
    /// How often the DEK of an id was replaced, which makes its bytes.
    replaced: [u8; DEKS as usize],
    /// Whether the DEK of an id is still unproven, so that it can be replaced.
    fake: [bool; DEKS as usize],
}

/// Of each shard. Of all but the first only what differs.
fn settings_of(which: u8, shards: u64) -> Settings {
    let base = Settings {
        keys: 6,
        warm_keys: 3,
        low_water_uses: 2,
        key_uses: 7,
        prefetch_window_ms: 300,
        prefetch_jitter_percent: 50,
        prefetch_in_flight: 2,
        prefetch_scan_ms: 100,
        ..SETTINGS
    };
    let settings = match which % 5 {
        0 => base,
        1 => {
            Settings { key_soft_ttl_ms: 200, key_hard_ttl_ms: 300, prefetch_window_ms: 90, ..base }
        }
        2 => Settings { keys: 2, warm_keys: 1, prefetch_in_flight: 1, ..base },
        3 => Settings { key_uses: 4, prefetch_in_flight: 0, ..base },
        _ => Settings { keys: 100, warm_keys: 100, prefetch_jitter_percent: 0, ..base },
    };
    let (keys, warm_keys) = (settings.keys * shards, settings.warm_keys * shards);
    Settings { keys, warm_keys, ..settings }
}

impl Pair {
    fn new(shards: u64) -> Self {
        let settings = settings_of(0, shards);
        let cache = KeyCache::with_shards(usize::try_from(shards).unwrap(), settings, settings);
        let part = |id: u8| {
            let place: *const Place = cache.place(&name(id));
            cache.places.iter().position(|other| std::ptr::eq(place, other)).unwrap()
        };
        let model = Model {
            now_ms: 0,
            settings,
            parts: (0..KEYS).map(|key| (key * STRIDE, part(key * STRIDE))).collect(),
            shards,
            look_ms: 0,
            deks: BTreeMap::new(),
            dropped: Vec::new(),
            keys: BTreeMap::new(),
            queue: VecDeque::new(),
            opened: 0,
        };
        Self {
            rig: Rig { deks: DekTable::default(), cache },
            model,
            witness: Witness::default(),
            replaced: [0; DEKS as usize],
            fake: [true; DEKS as usize],
        }
    }

    fn batch(&self, fails: bool) -> Batch<'_> {
        let fails = fails.then_some(KeyError::Invalid);
        Batch { fails, ..self.rig.batch(self.model.now_ms) }
    }

    fn install(&mut self, id: u8, for_ms: u64, replace: bool) {
        let at = usize::from(id);
        // A fake gives way to the proved DEK once; the proved one never does.
        let replace = replace && self.fake[at] && self.rig.deks.find(&[id; 16], 0).is_some();
        if replace {
            self.fake[at] = false;
            self.replaced[at] += 1;
        }
        let provenance = if self.fake[at] { Provenance::Unproven } else { Provenance::Born };
        let secret = Secret32::copy_from(&[100 * self.replaced[at] + id; 32]).unwrap();
        let dek = Dek { id: [id; 16], keyspace: name(0).keyspace, provenance, secret };
        self.rig.deks.install(dek, self.model.now_ms + for_ms, false).unwrap();
        self.model.unlock(id, for_ms, replace);
    }

    fn ask(&mut self, id: u8, blob: Option<&[u8]>, event: Event, fails: bool) -> (Said, u32) {
        let batch = self.batch(fails);
        let answer = self.rig.cache.ask(&name(id), blob, event, &batch);
        let opened = batch.opened.get();
        if opened > 0 {
            self.witness.opened.insert(id, (self.model.now_ms, 0));
        }
        if let (Event::Sign, Ok(key)) = (event, &answer) {
            assert!(key.is_some());
            let (opened_ms, uses) = self.witness.opened.get_mut(&id).unwrap();
            *uses += 1;
            self.witness.done.signed += 1;
            assert!(self.model.now_ms < *opened_ms + self.model.settings.key_hard_ttl_ms);
            assert!(*uses <= self.model.settings.key_uses, "no uses are left");
        }
        (answer.map(drop), opened)
    }

    fn step(&mut self, action: Do, blobs: &[Vec<Vec<u8>>]) {
        let blob_of = |id: u8, dek: u8| &*blobs[usize::from(id / STRIDE)][usize::from(dek)];
        self.model.opened = 0;
        let (said, did) = match action {
            Do::Pass(ms) => {
                self.model.now_ms += ms;
                return;
            }
            Do::Sign(id, dek, fails) => {
                let said = self.model.sign(id, dek, fails);
                (said, self.ask(id, dek.map(|dek| blob_of(id, dek)), Event::Sign, fails))
            }
            Do::ForceRefresh(id) => {
                let said = self.model.refresh(id, true, false);
                (said, self.ask(id, None, Event::Refresh { forced: true }, false))
            }
            Do::Refresh(fails) => {
                let queued = self.rig.next_refresh().map(|name| name.key_id[0]);
                assert_eq!(queued, self.model.queue.pop_front());
                let Some(id) = queued else { return };
                let said = self.model.refresh(id, false, fails);
                (said, self.ask(id, None, Event::Refresh { forced: false }, fails))
            }
            Do::Activate(id, dek) => {
                let said = self.model.open(dek, false);
                if said.is_ok() {
                    self.model.put(id, dek);
                    self.witness.opened.insert(id, (self.model.now_ms, 0));
                }
                let opened = self.model.opened;
                (said, (self.rig.activate(id, blob_of(id, dek), self.model.now_ms), opened))
            }
            Do::Forget(id) => {
                let was_there = self.model.keys.remove(&id).is_some();
                assert_eq!(self.rig.cache.forget(&name(id)), was_there);
                return;
            }
            Do::Sweep => return self.sweep(),
            Do::Unlock(id, for_ms) => return self.install(id, for_ms, false),
            Do::Replace(id, for_ms) => return self.install(id, for_ms, true),
            Do::SweepDeks => {
                self.rig.deks.sweep(self.model.now_ms);
                return self.model.drop_deks();
            }
            Do::Configure(which) => {
                let settings = settings_of(which, self.model.shards);
                self.rig.cache.force(settings, self.model.now_ms);
                return self.model.configure(settings);
            }
        };
        assert_eq!(did, (said, self.model.opened), "{action:?} at {}", self.model.now_ms);
    }

    /// What happens every second.
    fn sweep(&mut self) {
        let before = self.looked();
        let counts = self.rig.sweep(self.model.now_ms);
        let after = self.looked();
        self.model.drop_deks();
        self.model.sweep();
        assert_eq!(counts, self.model.counts());
        let queued: Vec<_> = std::iter::from_fn(|| self.rig.next_refresh()).collect();
        for name in &queued {
            assert!(self.rig.cache.refreshes.offer(*name, u64::MAX), "back in its place");
        }
        let queued: Vec<_> = queued.iter().map(|name| name.key_id[0]).collect();
        let (waiting, new) = queued.split_at(self.model.queue.len());
        assert_eq!(self.model.queue, waiting, "who waits stays");
        let counted = Looked {
            scanned: after.scanned - before.scanned,
            triggered: after.triggered - before.triggered,
            skipped: after.skipped - before.skipped,
        };
        self.model.prefetch(new, counted);
        self.witness.done.prefetched += counted.triggered;
        self.witness.done.skipped += counted.skipped;
    }

    fn looked(&self) -> Looked {
        let rows = self.rig.cache.stats.snapshot();
        let sum = |of: fn(&KeyspaceStats) -> u64| rows.iter().map(of).sum();
        Looked {
            scanned: sum(|row| row.prefetch_scanned),
            triggered: sum(|row| row.prefetch_triggered),
            skipped: sum(|row| row.prefetch_skipped),
        }
    }

    /// One history; gives what it came to.
    fn run(shards: u64, actions: impl IntoIterator<Item = Do>, blobs: &[Vec<Vec<u8>>]) -> Done {
        let mut pair = Self::new(shards);
        for action in actions {
            pair.step(action, blobs);
            pair.witness.done.steps += 1;
            assert_eq!(pair.rig.check(), pair.model.warm().len(), "plain keys after {action:?}");
        }
        pair.witness.done
    }
}

fn blobs() -> Vec<Vec<Vec<u8>>> {
    let of_key = |id| (0..DEKS).map(|dek| blob(id, dek, PUBLIC_KEY)).collect();
    (0..KEYS).map(|key| of_key(key * STRIDE)).collect()
}

fn actions() -> impl Strategy<Value = Do> {
    let (key, dek) = ((0..KEYS).prop_map(|key| key * STRIDE), 0..DEKS);
    prop_oneof![
        6 => (0_u64..250).prop_map(Do::Pass),
        12 => (key.clone(), proptest::option::of(dek.clone()), proptest::bool::weighted(0.05))
            .prop_map(|(key, blob, fails)| Do::Sign(key, blob, fails)),
        3 => (key.clone(), dek.clone()).prop_map(|(key, dek)| Do::Activate(key, dek)),
        2 => key.clone().prop_map(Do::ForceRefresh),
        3 => proptest::bool::weighted(0.1).prop_map(Do::Refresh),
        1 => key.prop_map(Do::Forget),
        2 => Just(Do::Sweep),
        3 => (dek.clone(), 1_u64..3_000).prop_map(|(dek, ms)| Do::Unlock(dek, ms)),
        1 => (dek, 1_u64..3_000).prop_map(|(dek, ms)| Do::Replace(dek, ms)),
        1 => Just(Do::SweepDeks),
        1 => (0_u8..5).prop_map(Do::Configure),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_cache_does_what_the_model_says(
        shards in 1_u64..8,
        actions in proptest::collection::vec(actions(), 1..400),
    ) {
        Pair::run(shards, actions, &blobs());
    }
}

/// Xorshift64, so that a history is its number.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn small(&mut self, end: u8) -> u8 {
        u8::try_from(self.below(end.into())).unwrap()
    }

    fn action(&mut self) -> Do {
        let (key, dek) = (self.small(KEYS) * STRIDE, self.small(DEKS));
        match self.below(36) {
            0..6 => Do::Pass(self.below(250)),
            6..12 => Do::Sign(key, None, self.below(20) == 0),
            12..19 => Do::Sign(key, Some(dek), self.below(20) == 0),
            19..22 => Do::Activate(key, dek),
            22..24 => Do::ForceRefresh(key),
            24..27 => Do::Refresh(self.below(10) == 0),
            27 => Do::Forget(key),
            28..30 => Do::Sweep,
            30..33 => Do::Unlock(dek, 1 + self.below(3_000)),
            33 => Do::Replace(dek, 1 + self.below(3_000)),
            34 => Do::SweepDeks,
            _ => Do::Configure(self.small(5)),
        }
    }
}

#[test]
fn long_histories_of_the_cache_are_those_of_the_model() {
    const HISTORIES: u64 = 40;
    const STEPS: usize = 5_000;
    let (blobs, mut all) = (blobs(), Done::default());
    for history in 1..=HISTORIES {
        let mut random = Random(history.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shards = [1, 3, 8][usize::try_from(history % 3).unwrap()];
        let actions = std::iter::repeat_with(|| random.action()).take(STEPS);
        let Done { steps, signed, prefetched, skipped } = Pair::run(shards, actions, &blobs);
        all.steps += steps;
        all.signed += signed;
        all.prefetched += prefetched;
        all.skipped += skipped;
    }
    println!("key cache model: {HISTORIES} histories with 1, 3 and 8 shards, {all:?}");
    assert!(all.signed > all.steps / 10 && all.prefetched > 100 && all.skipped > 20, "{all:?}");
}
