use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::store::record::tests::key_record;
use crate::store::{DekRecord, Records, record};

thread_local! {
    /// Directories whose names were made durable, in order.
    pub(super) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const {
        std::cell::RefCell::new(Vec::new())
    };
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, |_| {}).unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Swap(u8, Option<u8>, u8),
    Get(u8),
    List(u8, Option<u8>, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..12;
    let space = 0_u8..3;
    prop_oneof![
        4 => (id.clone(), any::<u8>()).prop_map(|(i, v)| Step::Put(i, v)),
        3 => (id.clone(), proptest::option::of(0_u8..4), 0_u8..4)
            .prop_map(|(i, e, v)| Step::Swap(i, e, v)),
        3 => id.clone().prop_map(Step::Get),
        2 => (space, proptest::option::of(id), 1_usize..5).prop_map(|(s, a, n)| Step::List(s, a, n)),
        1 => Just(Step::Reopen),
    ]
}

fn bytes(value: u8) -> Bytes {
    Bytes::copy_from_slice(&[value])
}

/// The keyspace of a row is a function of its key, as it is for real records.
fn row(id: u8, value: u8) -> Row {
    Row { keyspace: format!("space{}", id % 3), key: bytes(id), value: bytes(value) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_behaves_like_a_map_and_survives_reopening(steps in proptest::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let mut model = BTreeMap::<u8, u8>::new();
        let mut store = Some(open(directory.path()));
        for step in steps {
            let current = store.as_ref().unwrap();
            match step {
                Step::Put(id, value) => {
                    let expected = model.get(&id).map_or(Put::Stored, |old| Put::Exists(bytes(*old)));
                    model.entry(id).or_insert(value);
                    let got = run(current.put_if_absent(Table::Key, row(id, value)));
                    prop_assert_eq!(got, Ok(expected));
                }
                Step::Swap(id, old, value) => {
                    let held = model.get(&id).copied();
                    let expected = if held == old {
                        model.insert(id, value);
                        Swap::Swapped
                    } else {
                        Swap::Differs(held.map(bytes))
                    };
                    let got =
                        run(current.compare_and_swap(Table::Key, old.map(bytes), row(id, value)));
                    prop_assert_eq!(got, Ok(expected));
                }
                Step::Get(id) => {
                    let got = run(current.get(Table::Key, bytes(id)));
                    prop_assert_eq!(got, Ok(model.get(&id).map(|value| bytes(*value))));
                }
                Step::List(space, after, max) => {
                    let all: Vec<_> = model
                        .iter()
                        .filter(|(id, _)| **id % 3 == space && after.is_none_or(|after| **id > after))
                        .map(|(id, value)| (bytes(*id), bytes(*value)))
                        .collect();
                    let rows: Vec<_> = all.iter().take(max).cloned().collect();
                    let next = (all.len() > max).then(|| rows.last().unwrap().0.clone());
                    let got = run(current.list(
                        Table::Key, format!("space{space}"), after.map(bytes), max,
                    ));
                    prop_assert_eq!(got, Ok(Page { rows, next }));
                }
                Step::Reopen => {
                    drop(store.take());
                    store = Some(open(directory.path()));
                }
            }
        }
    }
}

#[test]
fn directory_and_file_are_for_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("made/here");
    let _store = open(&directory);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(FILE)), 0o600);
}

#[test]
fn foreign_and_newer_files_are_refused_untouched() {
    let text = tempfile::tempdir().unwrap();
    std::fs::write(text.path().join(FILE), b"something else entirely").unwrap();
    assert!(matches!(EmbeddedStore::open(text.path(), |_| {}), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read(text.path().join(FILE)).unwrap(), b"something else entirely");

    let other = tempfile::tempdir().unwrap();
    let database = Database::create(other.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(EmbeddedStore::open(other.path(), |_| {}), Err(OpenError::Foreign { .. })));

    let newer = tempfile::tempdir().unwrap();
    drop(open(newer.path()));
    let database = Database::create(newer.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(FORMAT_NAME, FORMAT_VERSION + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(
        EmbeddedStore::open(newer.path(), |_| {}),
        Err(OpenError::Newer { version: 2, .. })
    ));
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path());
    assert!(matches!(EmbeddedStore::open(directory.path(), |_| {}), Err(OpenError::InUse { .. })));
}

#[test]
fn missing_and_corrupt_are_different_and_write_once_rows_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let records = Records::new(store.clone());
    run(async {
        assert_eq!(records.key([1; 16]).await, Ok(None));
        let broken = Row {
            keyspace: "default".to_owned(),
            key: Bytes::copy_from_slice(&[1; 16]),
            value: Bytes::from_static(b"not a record"),
        };
        store.put_if_absent(Table::Key, broken).await.unwrap();
        assert!(matches!(records.key([1; 16]).await, Err(StoreError::Corrupt(_))));
        assert!(matches!(
            records.put_key(&key_record([1; 16], "default")).await,
            Err(StoreError::Corrupt(_))
        ));

        let record = key_record([2; 16], "default");
        let misplaced = Row {
            keyspace: "default".to_owned(),
            key: Bytes::copy_from_slice(&[3; 16]),
            value: record.encode().into(),
        };
        store.put_if_absent(Table::Key, misplaced).await.unwrap();
        assert!(matches!(records.key([3; 16]).await, Err(StoreError::Corrupt(_))));

        assert_eq!(records.put_key(&record).await, Ok(None));
        let mut second = record.clone();
        second.created_ms += 1;
        assert_eq!(records.put_key(&second).await, Ok(Some(record)));

        let dek = DekRecord {
            dek_id: [4; 16],
            keyspace: "default".to_owned(),
            wrapped_dek: Bytes::from_static(b"wrapped"),
            birth_document: Bytes::from_static(b"document"),
            kms_key_arn: "arn".to_owned(),
        };
        records.put_dek(&dek).await.unwrap();
        records.put_dek(&dek).await.unwrap();
        let other = DekRecord { wrapped_dek: Bytes::from_static(b"other"), ..dek.clone() };
        assert!(matches!(records.put_dek(&other).await, Err(StoreError::Corrupt(_))));
        assert_eq!(records.dek([4; 16]).await, Ok(Some(dek)));

        assert_eq!(records.elect_current("default", &[1; 48], [4; 16]).await, Ok([4; 16]));
        assert_eq!(records.elect_current("default", &[1; 48], [5; 16]).await, Ok([4; 16]));
        assert_eq!(records.elect_current("default", &[2; 48], [5; 16]).await, Ok([5; 16]));
        assert_eq!(records.current("default", &[1; 48]).await, Ok(Some([4; 16])));

        let document = Bytes::from_static(b"a document");
        let hash = crate::store::sha256(&document);
        records.put_document(hash, document.clone()).await.unwrap();
        assert_eq!(records.document(hash).await, Ok(Some(document)));
        let lie = Row {
            keyspace: String::new(),
            key: Bytes::copy_from_slice(&[9; 32]),
            value: record::DocumentRecord { document: Bytes::from_static(b"other") }
                .encode()
                .into(),
        };
        store.put_if_absent(Table::Document, lie).await.unwrap();
        assert!(matches!(records.document([9; 32]).await, Err(StoreError::Corrupt(_))));
    });
}

#[test]
fn a_hundred_racing_elections_have_one_winner() {
    let directory = tempfile::tempdir().unwrap();
    let records = Records::new(Arc::new(open(directory.path())));
    let winners = run(async {
        let races = (0..100_u8).map(|n| {
            let records = records.clone();
            async move { records.elect_current("default", &[7; 48], [n; 16]).await.unwrap() }
        });
        futures_util::future::join_all(races).await
    });
    assert!(winners.iter().all(|winner| winner == &winners[0]));
}

/// A file whose writes fail while told to, as on a full disk.
#[derive(Debug)]
struct Flaky {
    file: redb::backends::FileBackend,
    fails: Arc<AtomicBool>,
}

impl Flaky {
    fn check(&self) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl redb::StorageBackend for Flaky {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check().and_then(|()| self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check().and_then(|()| self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check().and_then(|()| self.file.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// A store over such a file, its switch, and what it says about its commits.
fn open_flaky(folder: &Path) -> (EmbeddedStore, Arc<AtomicBool>, mpsc::Receiver<bool>) {
    drop(open(folder));
    let path = folder.join(FILE);
    let fails = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&fails);
    let opener = move || {
        let failed = |reason| OpenError::Foreign { path: path.clone(), reason };
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let file = redb::backends::FileBackend::new(file).unwrap();
        let flaky = Flaky { file, fails: Arc::clone(&shared) };
        flaky.check().map_err(|error| failed(error.to_string()))?;
        redb::Builder::new().create_with_backend(flaky).map_err(|error| failed(error.to_string()))
    };
    let (said, heard) = mpsc::channel();
    let slot = Slot::new(opener().unwrap(), opener);
    let store = EmbeddedStore::start(slot, move |durable| said.send(durable).unwrap()).unwrap();
    (store, fails, heard)
}

#[test]
fn a_disk_that_was_full_costs_its_writes_and_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, fails, heard) = open_flaky(folder.path());
    run(async {
        assert_eq!(store.put_if_absent(Table::Key, row(1, 1)).await, Ok(Put::Stored));
        fails.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            let refused = store.put_if_absent(Table::Key, row(2, 2)).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        }
        fails.store(false, Ordering::SeqCst);
        // The first write after it may still meet the closed file; it opens it.
        let mut stored = store.put_if_absent(Table::Key, row(3, 3)).await;
        if stored.is_err() {
            stored = store.put_if_absent(Table::Key, row(3, 3)).await;
        }
        assert_eq!(stored, Ok(Put::Stored));
        assert_eq!(store.get(Table::Key, bytes(1)).await, Ok(Some(bytes(1))));
        assert_eq!(store.get(Table::Key, bytes(2)).await, Ok(None));
    });
    drop(store);
    assert_eq!(heard.iter().collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_store_without_requests_heals_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (store, fails, heard) = open_flaky(folder.path());
    run(async {
        assert_eq!(store.put_if_absent(Table::Key, row(1, 1)).await, Ok(Put::Stored));
        fails.store(true, Ordering::SeqCst);
        let refused = store.put_if_absent(Table::Key, row(2, 2)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    });
    // The disk must be full while the file is opened again, or there is nothing to heal.
    let limit = Duration::from_secs(20);
    assert_eq!([heard.recv_timeout(limit), heard.recv_timeout(limit)], [Ok(true), Ok(false)]);
    let deadline = Instant::now() + limit;
    while store.slot.with(|_| Ok(())).is_ok() {
        assert!(Instant::now() < deadline, "the file is still open");
        std::thread::yield_now();
    }
    fails.store(false, Ordering::SeqCst);
    assert_eq!(heard.recv_timeout(limit), Ok(true), "no write came, and none may be needed");
    assert_eq!(run(store.get(Table::Key, bytes(1))), Ok(Some(bytes(1))));
    assert_eq!(run(store.put_if_absent(Table::Key, row(3, 3))), Ok(Put::Stored));
}

#[test]
fn every_open_makes_the_names_on_the_way_to_the_file_durable() {
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path().join("a");
    let directory = outer.join("b");
    let synced = || SYNCED.with_borrow_mut(std::mem::take);
    synced();
    drop(open(&directory));
    let first = synced();
    for path in [folder.path(), &outer, &directory] {
        assert!(first.iter().any(|synced| synced == path), "{path:?} in {first:?}");
    }
    // The file is there: who made it may have died before its name was durable.
    drop(open(&directory));
    let again = synced();
    assert!(again.contains(&directory) && again.contains(&outer), "{again:?}");
}

#[test]
fn a_damaged_row_hides_no_other_of_its_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let skipped = prometheus_client::metrics::counter::Counter::default();
    let records = Records::new(store.clone()).counting(skipped.clone());
    run(async {
        for id in [1, 3] {
            records.put_key(&key_record([id; 16], "default")).await.unwrap();
        }
        for table in [Table::Key, Table::Dek] {
            let key = Bytes::copy_from_slice(&[2; 16]);
            let row = Row { keyspace: "default".to_owned(), key, value: bytes(0xff) };
            store.put_if_absent(table, row).await.unwrap();
        }
        let (first, next) = records.keys("default", None, 2).await.unwrap();
        assert_eq!((first.len(), first[0].key_id, next), (1, [1; 16], Some([2; 16])));
        let (rest, next) = records.keys("default", next, 2).await.unwrap();
        assert_eq!((rest.len(), rest[0].key_id, next), (1, [3; 16], None));
        assert_eq!(records.deks("default", None, 2).await.unwrap(), (Vec::new(), None));
        assert_eq!(skipped.get(), 2);
        assert!(matches!(records.key([2; 16]).await, Err(StoreError::Corrupt(_))));
    });
}
