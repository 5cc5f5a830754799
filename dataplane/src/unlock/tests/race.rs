//! A hundred dataplanes make the DEK of one keyspace at once, over real enclaves of one image, one
//! store and one KMS, and most of them are stopped, some at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::worker::Unlocked;
use super::bench::{Bench, KEYSPACE, Member, PATIENCE, create};
use crate::failpoint::{UNLOCK_POINTS, stop};
use crate::store::{EmbeddedStore, Page, Put, Row, Store, StoreError, Swap, Table};

const RACERS: usize = 100;
const ENCLAVES: usize = 10;
/// The shared store. Nobody is elected before every racer stands at the election or was stopped on
/// the way, so that all of them have found no `current` and have a DEK of their own.
struct StartLine {
    store: EmbeddedStore,
    arrived: watch::Sender<usize>,
}

// === impl StartLine ===

impl StartLine {
    fn arrive(&self) {
        self.arrived.send_modify(|count| *count += 1);
    }
}

impl Store for StartLine {
    fn get(&self, table: Table, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        self.store.get(table, key)
    }

    fn put_if_absent(&self, table: Table, row: Row) -> BoxFuture<'_, Result<Put, StoreError>> {
        self.store.put_if_absent(table, row)
    }

    fn compare_and_swap(
        &self,
        table: Table,
        expected: Option<Bytes>,
        row: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>> {
        async move {
            self.arrive();
            let mut arrived = self.arrived.subscribe();
            arrived.wait_for(|count| *count >= RACERS).await.unwrap();
            self.store.compare_and_swap(table, expected, row).await
        }
        .boxed()
    }

    fn list(
        &self,
        table: Table,
        keyspace: String,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.store.list(table, keyspace, after, rows_max)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.store.scan(table, after, rows_max)
    }
}

/// Where the racer with this number is stopped; two of eight go to the end.
fn stopped_at(racer: usize) -> Option<&'static str> {
    UNLOCK_POINTS.get(racer % (UNLOCK_POINTS.len() + 2)).copied()
}

/// A racer that is stopped here never comes to the election.
fn stopped_before_election(point: &str) -> bool {
    ["unlock.begun", "unlock.generated", "unlock.row-stored", "unlock.proved"].contains(&point)
}

/// One racer in a task of its own; gives the point that stopped it.
async fn race(
    racer: usize,
    line: Arc<StartLine>,
    member: Arc<Member>,
) -> Result<Unlocked, &'static str> {
    let point = stopped_at(racer);
    let task = tokio::spawn(async move { stop::at(point, member.unlock()).await });
    let panic = match task.await {
        Ok(unlocked) => return Ok(unlocked),
        Err(error) => error.into_panic(),
    };
    let Ok(stopped) = panic.downcast::<stop::Stopped>() else {
        panic!("racer {racer} failed; its message is above");
    };
    if stopped_before_election(stopped.0) {
        line.arrive();
    }
    Err(stopped.0)
}

/// The id of the DEK that the blob's own header names: `docs/formats.md`, "Key blob".
fn dek_of(blob: &[u8]) -> [u8; 16] {
    let mut at = b"SGK1".len() + 3;
    for _ in ["app", "keyspace"] {
        at += 2 + usize::from(u16::from_be_bytes([blob[at], blob[at + 1]]));
    }
    blob[at..at + 16].try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_generations_stopped_at_each_step_leave_one_current_and_nothing_under_a_loser() {
    timeout(PATIENCE, race_and_check()).await.expect("the race ends");
}

async fn race_and_check() {
    let mut line = None;
    let bench = Bench::start(|store| {
        let arrived = watch::Sender::new(0);
        Arc::clone(line.insert(Arc::new(StartLine { store, arrived })))
    });
    let line = line.unwrap();
    let mut members = Vec::new();
    for name in 0..ENCLAVES {
        members.push(Arc::new(bench.member(name).await));
    }
    let racers = (0..RACERS).map(|racer| {
        let member = Arc::clone(&members[racer % ENCLAVES]);
        race(racer, Arc::clone(&line), member)
    });
    let ends = join_all(racers).await;

    let mut stopped = BTreeMap::new();
    for (racer, end) in ends.iter().enumerate() {
        assert_eq!(end.as_ref().err().copied(), stopped_at(racer), "racer {racer}");
        *stopped.entry(end.as_ref().err().copied()).or_insert(0_usize) += 1;
    }
    assert_eq!(stopped.len(), UNLOCK_POINTS.len() + 1, "some at each step, some to the end");
    let [current] = bench.currents().await[..] else { panic!("not one `current`") };
    for unlocked in ends.iter().flatten() {
        assert!(unlocked.sealing && unlocked.dek_id == current);
    }
    // Every generation that was stopped after its row was written left its row. So did attempts that
    // failed between row and proof because their enclave had too many unlocks open.
    let (rows, _) = bench.records.deks(KEYSPACE, None, 1_000).await.unwrap();
    let made: BTreeSet<_> = rows.iter().map(|row| row.dek_id).collect();
    let rowless = stopped[&Some("unlock.begun")] + stopped[&Some("unlock.generated")];
    assert!(made.len() >= RACERS - rowless);
    assert!(made.contains(&current));
    for member in &members {
        let installed = member.deks().await;
        assert!(
            installed.iter().all(|dek| !dek.sealing || dek.dek_id[..] == current),
            "a loser never seals: {installed:?}"
        );
    }
    assert_new_keys_are_under(&bench, &members, current, &made).await;
}

/// Every member goes on, those whose racers were all stopped too, and makes keys.
async fn assert_new_keys_are_under(
    bench: &Bench,
    members: &[Arc<Member>],
    current: [u8; 16],
    made: &BTreeSet<[u8; 16]>,
) {
    const KEYS_EACH: usize = 3;
    for member in members {
        let unlocked = member.unlock().await;
        assert!(unlocked.sealing && unlocked.dek_id == current);
        let app = bench.app(member);
        for _ in 0..KEYS_EACH {
            create(&app).await.unwrap();
        }
        let sealing: Vec<_> = member.deks().await.into_iter().filter(|dek| dek.sealing).collect();
        assert!(matches!(&sealing[..], [dek] if dek.dek_id[..] == current), "{sealing:?}");
    }
    let (keys, _) = bench.records.keys(KEYSPACE, None, 1_000).await.unwrap();
    assert_eq!(keys.len(), members.len() * KEYS_EACH);
    let dek = bench.records.dek(current).await.unwrap().unwrap();
    for key in &keys {
        assert_eq!((key.dek_id, dek_of(&key.blob)), (current, current));
        assert_eq!(key.wrapped_dek, dek.wrapped_dek, "the record's own copy is the winner's");
    }
    let (rows, _) = bench.records.deks(KEYSPACE, None, 1_000).await.unwrap();
    let still: BTreeSet<_> = rows.iter().map(|row| row.dek_id).collect();
    assert_eq!(&still, made, "losers' rows stay, and nobody made another DEK");
    assert_eq!(bench.currents().await, [current]);
}
