//! The cache against a reference model: the same random histories, time included, through both.
//!
//! The model knows nothing of shards, slots, lists or flights. It is a map of what each key went
//! through, with absolute times, and decides from that alone what must be answered and whether a
//! blob must be opened for it. Beside it, three promises are checked from the outside only.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::rig::Batch;
use super::*;

const KEYS: u8 = 8;
const DEKS: u8 = 3;
const PUBLIC_KEY: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Do {
    Pass(u64),
    /// Key, the DEK of a blob that comes along, and whether blobs open in this batch.
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

    /// Used longest ago, by the second, then by name.
    fn oldest(&self, among: impl Fn(&ModelKey) -> bool) -> Option<u8> {
        let keys = self.keys.iter().filter(|(_, key)| among(key));
        keys.min_by_key(|(id, key)| (key.used_ms / 1_000, **id)).map(|(id, _)| *id)
    }

    fn put(&mut self, id: u8, dek: u8) {
        self.keys.remove(&id);
        while self.keys.len() as u64 >= self.settings.keys {
            let cool = self.oldest(|key| key.plain.is_none());
            let victim = cool.or_else(|| self.oldest(|_| true)).unwrap();
            self.keys.remove(&victim);
        }
        while self.warm().len() as u64 >= self.settings.warm_keys {
            let victim = self.oldest(|key| key.plain.is_some()).unwrap();
            self.keys.get_mut(&victim).unwrap().plain = None;
        }
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
        while self.keys.len() as u64 > settings.keys {
            let cool = self.oldest(|key| key.plain.is_none());
            let victim = cool.or_else(|| self.oldest(|_| true)).unwrap();
            self.keys.remove(&victim);
        }
        while self.warm().len() as u64 > settings.warm_keys {
            let victim = self.oldest(|key| key.plain.is_some()).unwrap();
            self.keys.get_mut(&victim).unwrap().plain = None;
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

/// The promises, from the outside: opened when, used how often.
#[derive(Default)]
struct Witness {
    opened: BTreeMap<u8, (u64, u64)>,
    steps: u64,
    signed: u64,
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

/// Of the second only what differs.
fn settings_of(which: u8) -> Settings {
    let base = Settings { keys: 6, warm_keys: 3, low_water_uses: 2, key_uses: 7, ..SETTINGS };
    match which % 4 {
        0 => base,
        1 => Settings { key_soft_ttl_ms: 200, key_hard_ttl_ms: 300, ..base },
        2 => Settings { keys: 2, warm_keys: 1, ..base },
        _ => Settings { key_uses: 4, keys: 100, warm_keys: 100, ..base },
    }
}

impl Pair {
    fn new() -> Self {
        let settings = settings_of(0);
        let cache = KeyCache::with_shards(1, settings, settings);
        let model = Model {
            now_ms: 0,
            settings,
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
            self.witness.signed += 1;
            assert!(self.model.now_ms < *opened_ms + self.model.settings.key_hard_ttl_ms);
            assert!(*uses <= self.model.settings.key_uses, "no uses are left");
        }
        (answer.map(drop), opened)
    }

    fn step(&mut self, action: Do, blobs: &[Vec<Vec<u8>>]) {
        let blob_of = |id: u8, dek: u8| &*blobs[usize::from(id)][usize::from(dek)];
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
            Do::Sweep => {
                self.rig.cache.sweep(self.model.now_ms, 0);
                return self.model.sweep();
            }
            Do::Unlock(id, for_ms) => return self.install(id, for_ms, false),
            Do::Replace(id, for_ms) => return self.install(id, for_ms, true),
            Do::SweepDeks => {
                self.rig.deks.sweep(self.model.now_ms);
                let over = (0..DEKS).filter(|id| self.model.dek(*id).is_none());
                self.model.dropped = over.collect();
                return;
            }
            Do::Configure(which) => {
                let settings = settings_of(which);
                self.rig.cache.force(settings, self.model.now_ms);
                return self.model.configure(settings);
            }
        };
        assert_eq!(did, (said, self.model.opened), "{action:?} at {}", self.model.now_ms);
    }

    /// One history; gives its steps and signatures.
    fn run(actions: impl IntoIterator<Item = Do>, blobs: &[Vec<Vec<u8>>]) -> (u64, u64) {
        let mut pair = Self::new();
        for action in actions {
            pair.step(action, blobs);
            pair.witness.steps += 1;
            assert_eq!(pair.rig.check(), pair.model.warm().len(), "plain keys after {action:?}");
        }
        (pair.witness.steps, pair.witness.signed)
    }
}

fn blobs() -> Vec<Vec<Vec<u8>>> {
    let of_key = |id| (0..DEKS).map(|dek| blob(id, dek, PUBLIC_KEY)).collect();
    (0..KEYS).map(of_key).collect()
}

fn actions() -> impl Strategy<Value = Do> {
    let (key, dek) = (0..KEYS, 0..DEKS);
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
        1 => (0_u8..4).prop_map(Do::Configure),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_cache_does_what_the_model_says(
        actions in proptest::collection::vec(actions(), 1..400),
    ) {
        Pair::run(actions, &blobs());
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
        let (key, dek) = (self.small(KEYS), self.small(DEKS));
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
            _ => Do::Configure(self.small(4)),
        }
    }
}

#[test]
fn long_histories_of_the_cache_are_those_of_the_model() {
    const HISTORIES: u64 = 40;
    const STEPS: usize = 5_000;
    let blobs = blobs();
    let (mut steps, mut signed) = (0, 0);
    for history in 1..=HISTORIES {
        let mut random = Random(history.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let done = Pair::run(std::iter::repeat_with(|| random.action()).take(STEPS), &blobs);
        steps += done.0;
        signed += done.1;
    }
    println!("key cache model: {HISTORIES} histories, {steps} steps, {signed} signatures");
    assert!(signed > steps / 10, "the histories do something");
}
