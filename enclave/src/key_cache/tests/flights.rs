//! Single flight with real threads. Nobody sleeps: openings wait for what the test wants to see.

use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use sigil_enclave_protocol::v1::KeyspaceStats;

use super::*;
use crate::clock::boot_ms;

const LONG_MS: u64 = 60_000;
const PATIENT: Settings = Settings {
    key_soft_ttl_ms: 10 * LONG_MS,
    key_hard_ttl_ms: 10 * LONG_MS,
    key_uses: u64::MAX,
    sign_wait_ms: LONG_MS,
    hard_refresh_ms: LONG_MS,
    ..SETTINGS
};

/// All openings of a test.
#[derive(Default)]
struct Openings {
    begun: AtomicU32,
    under_way: Mutex<Vec<KeyName>>,
    /// The most that were under way of one key.
    at_once: AtomicUsize,
}

/// One of them, which ends when it is dropped.
struct Opening<'a>(&'a Openings, KeyName);

impl Openings {
    fn begin(&self, name: KeyName) -> Opening<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut under_way = self.under_way.lock().unwrap();
        under_way.push(name);
        let same = under_way.iter().filter(|other| **other == name).count();
        self.at_once.fetch_max(same, Ordering::Relaxed);
        Opening(self, name)
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way.lock().unwrap();
        let own = under_way.iter().position(|other| *other == self.1);
        under_way.swap_remove(own.unwrap());
    }
}

/// Batches of many workers over one table of DEKs, with a gate in front of every opening.
struct Worker<'a> {
    deks: &'a DekTable,
    openings: &'a Openings,
    /// Says that an opening has begun, and waits until it may end.
    gate: Option<(Sender<()>, Mutex<Receiver<()>>)>,
    fails: bool,
    began_ms: u64,
}

impl Open for Worker<'_> {
    fn open(&self, name: &KeyName, blob: &[u8]) -> Result<Opened, KeyError> {
        let _under_way = self.openings.begin(*name);
        // For others to try the same.
        thread::yield_now();
        if let Some((begun, end)) = &self.gate {
            begun.send(()).unwrap();
            end.lock().unwrap().recv().unwrap();
        }
        let header = crate::seal::parse(blob).map_err(|_| KeyError::Invalid)?.header;
        let (dek, lease) = self.deks.find(&header.dek_id, self.began_ms).unwrap();
        if self.fails {
            return Err(KeyError::Internal);
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

/// A rig in real time.
fn rig(settings: Settings) -> Rig {
    let rig = Rig::new(settings);
    rig.unlock(1, boot_ms() + 10 * LONG_MS);
    rig
}

fn worker<'a>(rig: &'a Rig, openings: &'a Openings) -> Worker<'a> {
    Worker { deks: &rig.deks, openings, gate: None, fails: false, began_ms: boot_ms() }
}

/// A worker whose opening says when it begins and ends when it is told to.
fn gated<'a>(rig: &'a Rig, openings: &'a Openings) -> (Worker<'a>, Receiver<()>, Sender<()>) {
    let ((begun, has_begun), (may_end, end)) = (channel(), channel());
    let gate = Some((begun, Mutex::new(end)));
    (Worker { gate, ..worker(rig, openings) }, has_begun, may_end)
}

/// Of all rows, since whoever waits for a keyspace's first key is counted without its name.
fn counted(rig: &Rig) -> KeyspaceStats {
    let rows = rig.cache.stats.snapshot();
    let sum = |of: fn(&KeyspaceStats) -> u64| rows.iter().map(of).sum();
    KeyspaceStats {
        rehydrated: sum(|row| row.rehydrated),
        singleflight_waiters: sum(|row| row.singleflight_waiters),
        singleflight_wait_timeouts: sum(|row| row.singleflight_wait_timeouts),
        ..KeyspaceStats::default()
    }
}

fn until_waiting(rig: &Rig, waiters: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while counted(rig).singleflight_waiters != waiters {
        assert!(Instant::now() < deadline, "nobody waits");
        thread::yield_now();
    }
}

#[test]
fn one_worker_opens_and_the_others_wait_for_it() {
    let (rig, opened, blob) = (rig(PATIENT), Openings::default(), blob(7, 1, 2));
    let (first, has_begun, may_end) = gated(&rig, &opened);
    let sign = |worker: Worker<'_>| {
        rig.cache.ask(&name(7), Some(&blob), Event::Sign, &worker).map(|key| key.is_some())
    };
    thread::scope(|scope| {
        let opening = scope.spawn(|| sign(first));
        has_begun.recv().unwrap();
        let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| sign(worker(&rig, &opened)))).collect();
        until_waiting(&rig, 5);
        assert_eq!(rig.acquire(8, None, boot_ms()).0, Err(KeyError::BlobRequired), "no lock held");
        may_end.send(()).unwrap();
        for signed in waiting.into_iter().chain([opening]) {
            assert_eq!(signed.join().unwrap(), Ok(true));
        }
    });
    assert_eq!(opened.begun(), 1, "one opening for six");
    assert_eq!(counted(&rig).singleflight_waiters, 0);
    assert_eq!(rig.check(), 1);
}

#[test]
fn a_waiter_gives_up_when_its_budget_or_the_flights_is_used_up() {
    for settings in
        [Settings { sign_wait_ms: 3, ..PATIENT }, Settings { hard_refresh_ms: 3, ..PATIENT }]
    {
        let (rig, opened, blob) = (rig(settings), Openings::default(), blob(7, 1, 2));
        let (first, has_begun, may_end) = gated(&rig, &opened);
        thread::scope(|scope| {
            let opening = scope.spawn(|| rig.cache.ask(&name(7), Some(&blob), Event::Sign, &first));
            has_begun.recv().unwrap();
            let waited = rig.cache.ask(&name(7), Some(&blob), Event::Sign, &worker(&rig, &opened));
            assert_eq!(waited.unwrap_err(), KeyError::OutOfTime);
            may_end.send(()).unwrap();
            opening.join().unwrap().unwrap();
        });
        assert_eq!(counted(&rig).singleflight_wait_timeouts, 1);
        assert_eq!(opened.begun(), 1);
        assert_eq!(rig.acquire(7, None, boot_ms()), (Ok(()), 0), "the next one finds it");
    }
}

#[test]
fn after_an_opening_that_failed_a_waiter_tries_itself() {
    let (rig, opened, blob) = (rig(PATIENT), Openings::default(), blob(7, 1, 2));
    let (first, has_begun, may_end) = gated(&rig, &opened);
    let first = Worker { fails: true, ..first };
    thread::scope(|scope| {
        let opening = scope.spawn(|| rig.cache.ask(&name(7), Some(&blob), Event::Sign, &first));
        has_begun.recv().unwrap();
        let waiting = scope.spawn(|| {
            rig.cache.ask(&name(7), Some(&blob), Event::Sign, &worker(&rig, &opened)).map(drop)
        });
        until_waiting(&rig, 1);
        may_end.send(()).unwrap();
        assert_eq!(opening.join().unwrap().unwrap_err(), KeyError::Internal);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
    assert_eq!(opened.begun(), 2);
}

#[test]
fn what_is_forgotten_or_replaced_while_it_is_opened_does_not_come_back() {
    let (rig, opened) = (rig(PATIENT), Openings::default());
    rig.unlock(2, boot_ms() + LONG_MS);
    for (replace, answer) in [(false, Err(KeyError::BlobRequired)), (true, Ok(()))] {
        rig.activate(7, &blob(7, 1, 2), boot_ms()).unwrap();
        let (first, has_begun, may_end) = gated(&rig, &opened);
        let first = Worker { began_ms: boot_ms() + 1, ..first };
        let refresh = Event::Refresh { forced: true };
        thread::scope(|scope| {
            let opening = scope.spawn(|| rig.cache.ask(&name(7), None, refresh, &first));
            has_begun.recv().unwrap();
            if replace {
                rig.activate(7, &blob(7, 2, 2), boot_ms() + 1).unwrap();
            } else {
                assert!(rig.cache.forget(&name(7)));
            }
            may_end.send(()).unwrap();
            assert_eq!(opening.join().unwrap().map(drop), answer);
        });
        assert_eq!(rig.check(), usize::from(replace));
    }
    let key = rig.cache.ask(&name(7), None, Event::Sign, &worker(&rig, &opened)).unwrap().unwrap();
    assert_eq!(key.dek_id, [2; 16], "the blob that was activated");
}

#[test]
fn many_workers_on_few_keys_open_each_key_once_at_a_time() {
    const ROUNDS: u32 = 2_000;
    let settings = Settings { key_uses: 3, keys: 4, warm_keys: 2, ..PATIENT };
    let (rig, opened) = (rig(settings), Openings::default());
    let blobs: Vec<_> = (0..6).map(|id| blob(id, 1, 2)).collect();
    thread::scope(|scope| {
        for thread in 0..6_u32 {
            let (rig, opened, blobs) = (&rig, &opened, &blobs);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let id = u8::try_from((round * (thread + 1)) % 6).unwrap();
                    let (worker, blob) = (worker(rig, opened), &blobs[usize::from(id)]);
                    if round % 97 == 0 {
                        rig.cache.forget(&name(id));
                        rig.sweep(boot_ms());
                    }
                    let key = rig.cache.ask(&name(id), Some(blob), Event::Sign, &worker);
                    // Others may use up or displace a key each time before it is our turn.
                    assert!(matches!(key, Ok(Some(_)) | Err(KeyError::OutOfTime)), "{key:?}");
                }
            });
        }
    });
    assert!(rig.check() <= 2);
    assert_eq!(opened.at_once.load(Ordering::Relaxed), 1, "openings of one key at once");
    let flights = counted(&rig).rehydrated;
    assert_eq!(u64::from(opened.begun()), flights);
    assert_eq!(counted(&rig).singleflight_waiters, 0);
}
