//! What every engine does. Each check gets an engine and another one of the same rows: a second process
//! on the same database, or the same file opened by the same process.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use sigil_dataplane::store::{
    DekRecord, EmbeddedStore, Page, PostgresStore, Put, Records, Row, Store, StoreError, Swap,
    Table,
};

use crate::support::{Database, bytes, row};

const TABLES: [Table; 4] = [Table::Dek, Table::Current, Table::Document, Table::Key];

/// Engines over the same rows.
trait Rig {
    /// Two members.
    fn members(&mut self) -> [Arc<dyn Store>; 2];
    /// The same rows after every member went away.
    fn reopened(&mut self) -> Arc<dyn Store>;
}

/// One process may have the file open, so its two members share the engine.
struct Embedded {
    folder: tempfile::TempDir,
    open: Option<Arc<EmbeddedStore>>,
}

struct Postgres {
    database: Database,
}

impl Rig for Embedded {
    fn members(&mut self) -> [Arc<dyn Store>; 2] {
        let folder = self.folder.path();
        let store =
            self.open.get_or_insert_with(|| Arc::new(EmbeddedStore::open(folder, |_| {}).unwrap()));
        [Arc::clone(store) as Arc<dyn Store>, Arc::clone(store) as _]
    }

    fn reopened(&mut self) -> Arc<dyn Store> {
        let store = self.open.take().expect("it was open");
        assert!(Arc::into_inner(store).is_some(), "somebody has it open");
        let [store, _] = self.members();
        store
    }
}

impl Rig for Postgres {
    fn members(&mut self) -> [Arc<dyn Store>; 2] {
        [(); 2].map(|()| {
            let settings = &self.database.settings;
            Arc::new(PostgresStore::open(settings, |_| {}).unwrap()) as Arc<dyn Store>
        })
    }

    fn reopened(&mut self) -> Arc<dyn Store> {
        self.database.server.kill().unwrap();
        self.database.server.launch().unwrap();
        let [store, _] = self.members();
        store
    }
}

type Check = fn([Arc<dyn Store>; 2]) -> BoxFuture<'static, ()>;

const CHECKS: [(&str, Check); 8] = [
    ("a row is there once it is stored, for everybody", |members| {
        Box::pin(a_row_is_there_once_it_is_stored(members))
    }),
    ("the first row stays", |members| Box::pin(the_first_row_stays(members))),
    ("a swap needs what it expects", |members| Box::pin(a_swap_needs_what_it_expects(members))),
    ("tables and keyspaces are apart", |members| Box::pin(tables_and_keyspaces_are_apart(members))),
    ("pages are in order and whole", |members| Box::pin(pages_are_in_order_and_whole(members))),
    ("of racing creators one wins", |members| Box::pin(of_racing_creators_one_wins(members))),
    ("racing swaps lose no step", |members| Box::pin(racing_swaps_lose_no_step(members))),
    ("records: missing, corrupt, elected", |members| Box::pin(records_say_what_is_wrong(members))),
];

async fn conforms(rig: &mut impl Rig) {
    for (name, check) in CHECKS {
        println!("check: {name}");
        check(rig.members()).await;
    }
    let [store, other] = rig.members();
    let stored = row("survivor", [0_u8, 1, 2, 255]);
    assert_eq!(store.put_if_absent(Table::Key, stored.clone()).await, Ok(Put::Stored));
    drop((store, other));
    let store = rig.reopened();
    assert_eq!(store.get(Table::Key, stored.key.clone()).await, Ok(Some(stored.value.clone())));
    let again = store.put_if_absent(Table::Key, row("survivor", "other")).await;
    assert_eq!(again, Ok(Put::Exists(stored.value)));
}

#[tokio::test]
async fn the_embedded_engine_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&mut Embedded { folder, open: None }).await;
}

#[tokio::test]
async fn the_postgres_engine_conforms() {
    conforms(&mut Postgres { database: Database::start().await }).await;
}

async fn a_row_is_there_once_it_is_stored([one, other]: [Arc<dyn Store>; 2]) {
    for table in TABLES {
        assert_eq!(one.get(table, bytes("k")).await, Ok(None));
        let stored = row("k", format!("{table:?}"));
        assert_eq!(one.put_if_absent(table, stored.clone()).await, Ok(Put::Stored));
        assert_eq!(other.get(table, bytes("k")).await, Ok(Some(stored.value)));
    }
}

async fn the_first_row_stays([one, other]: [Arc<dyn Store>; 2]) {
    assert_eq!(one.put_if_absent(Table::Dek, row("first", "a")).await, Ok(Put::Stored));
    for value in ["a", "b", ""] {
        let put = other.put_if_absent(Table::Dek, row("first", value)).await;
        assert_eq!(put, Ok(Put::Exists(bytes("a"))));
    }
    assert_eq!(one.get(Table::Dek, bytes("first")).await, Ok(Some(bytes("a"))));
}

async fn a_swap_needs_what_it_expects([one, other]: [Arc<dyn Store>; 2]) {
    let swap = async |store: &Arc<dyn Store>, expected: Option<&str>, value: &str| {
        let expected = expected.map(bytes);
        store.compare_and_swap(Table::Current, expected, row("swap", value)).await.unwrap()
    };
    assert_eq!(swap(&one, Some("a"), "b").await, Swap::Differs(None), "nothing is there");
    assert_eq!(swap(&one, None, "a").await, Swap::Swapped);
    assert_eq!(swap(&other, None, "b").await, Swap::Differs(Some(bytes("a"))));
    assert_eq!(swap(&other, Some("x"), "b").await, Swap::Differs(Some(bytes("a"))));
    assert_eq!(swap(&other, Some("a"), "b").await, Swap::Swapped);
    assert_eq!(swap(&one, Some("b"), "b").await, Swap::Swapped, "the same again");
    assert_eq!(one.get(Table::Current, bytes("swap")).await, Ok(Some(bytes("b"))));
    let listed = one.list(Table::Current, "default".to_owned(), Some(bytes("s")), 9).await.unwrap();
    assert_eq!(listed.rows, [(bytes("swap"), bytes("b"))], "what was swapped in is listed");
}

async fn tables_and_keyspaces_are_apart([one, other]: [Arc<dyn Store>; 2]) {
    for (keyspace, key) in [("apart", "1"), ("apart2", "2"), ("apar", "3"), ("", "4")] {
        let row = Row { keyspace: keyspace.to_owned(), key: bytes(key), value: bytes(keyspace) };
        assert_eq!(one.put_if_absent(Table::Dek, row).await, Ok(Put::Stored));
    }
    let list = async |table, keyspace: &str| {
        let page = other.list(table, keyspace.to_owned(), None, 9).await.unwrap();
        page.rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(list(Table::Dek, "apart").await, [bytes("1")]);
    assert_eq!(list(Table::Dek, "apart2").await, [bytes("2")]);
    assert!(list(Table::Key, "apart").await.is_empty(), "another table");
    assert!(list(Table::Dek, "apar_").await.is_empty(), "no pattern");
    let all = other.scan(Table::Dek, None, 99).await.unwrap();
    for key in ["1", "2", "3", "4"] {
        assert!(all.rows.iter().any(|(found, _)| found == key.as_bytes()), "{key}");
    }
}

async fn pages_are_in_order_and_whole([one, other]: [Arc<dyn Store>; 2]) {
    let keys: BTreeSet<Vec<u8>> =
        (0..=255_u8).step_by(5).flat_map(|a| [vec![a], vec![a, 0], vec![a, 255]]).collect();
    for key in &keys {
        let row = Row { keyspace: "pages".to_owned(), key: bytes(key), value: bytes(key) };
        assert_eq!(one.put_if_absent(Table::Key, row).await, Ok(Put::Stored));
    }
    for rows_max in [1, 7, keys.len() - 1, keys.len(), keys.len() + 1] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = other.list(Table::Key, "pages".to_owned(), after, rows_max).await.unwrap();
            assert!(page.rows.len() <= rows_max);
            found.extend(page.rows.iter().map(|(key, _)| key.to_vec()));
            if page.next.is_none() {
                break;
            }
            assert_eq!(page.next.as_ref(), page.rows.last().map(|(key, _)| key));
            after = page.next;
        }
        assert!(found.iter().eq(&keys), "pages of {rows_max}: by bytes, each once");
    }
    let nobody = one.list(Table::Key, "nobody".to_owned(), None, 5).await;
    assert_eq!(nobody, Ok(Page::default()));
}

async fn of_racing_creators_one_wins(members: [Arc<dyn Store>; 2]) {
    for round in 0..8 {
        let races = (0..32).map(|n| {
            let store = Arc::clone(&members[n % 2]);
            let row = row(format!("race {round}"), format!("creator {n}"));
            async move { (row.value.clone(), store.put_if_absent(Table::Key, row).await.unwrap()) }
        });
        let results = join_all(races).await;
        let winners: Vec<_> =
            results.iter().filter(|(_, put)| *put == Put::Stored).map(|(value, _)| value).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let losers = results.iter().filter(|(_, put)| *put != Put::Stored);
        for (_, put) in losers {
            assert_eq!(*put, Put::Exists(winners[0].clone()), "all are told of the winner");
        }
    }
}

/// Sixteen members count to two hundred together.
async fn racing_swaps_lose_no_step(members: [Arc<dyn Store>; 2]) {
    const STEPS: u64 = 200;
    members[0].put_if_absent(Table::Key, row("count", 0_u64.to_be_bytes())).await.unwrap();
    let counting = (0..16_usize).map(|n| {
        let store = Arc::clone(&members[n % 2]);
        async move {
            let mut mine = 0;
            let mut old = store.get(Table::Key, bytes("count")).await.unwrap().unwrap();
            loop {
                let count = u64::from_be_bytes(old[..].try_into().unwrap());
                if count == STEPS {
                    return mine;
                }
                let next = row("count", (count + 1).to_be_bytes());
                let value = next.value.clone();
                match store.compare_and_swap(Table::Key, Some(old), next).await.unwrap() {
                    Swap::Swapped => {
                        mine += 1;
                        old = value;
                    }
                    Swap::Differs(there) => old = there.unwrap(),
                }
            }
        }
    });
    let made: u64 = join_all(counting).await.into_iter().sum();
    assert_eq!(made, STEPS, "each step was made by one member");
}

async fn records_say_what_is_wrong([one, other]: [Arc<dyn Store>; 2]) {
    let (records, others) = (Records::new(Arc::clone(&one)), Records::new(other));
    assert_eq!(records.key([1; 16]).await, Ok(None));
    let broken =
        Row { keyspace: "records".to_owned(), key: bytes([1; 16]), value: bytes("not a record") };
    one.put_if_absent(Table::Key, broken).await.unwrap();
    assert!(matches!(others.key([1; 16]).await, Err(StoreError::Corrupt(_))));
    let dek = DekRecord {
        dek_id: [4; 16],
        keyspace: "records".to_owned(),
        wrapped_dek: bytes("wrapped"),
        birth_document: bytes("document"),
        kms_key_arn: "arn".to_owned(),
    };
    records.put_dek(&dek).await.unwrap();
    others.put_dek(&dek).await.unwrap();
    let another = DekRecord { wrapped_dek: bytes("another"), ..dek.clone() };
    assert!(matches!(others.put_dek(&another).await, Err(StoreError::Corrupt(_))));
    assert_eq!(others.deks("records", None, 9).await, Ok((vec![dek], None)));
    let races = (0..100_u8).map(|n| {
        let records = if n % 2 == 0 { records.clone() } else { others.clone() };
        async move { records.elect_current("records", &[7; 48], [n; 16]).await.unwrap() }
    });
    let winners = join_all(races).await;
    assert!(winners.iter().all(|winner| winner == &winners[0]), "one current DEK");
    assert_eq!(records.current("records", &[7; 48]).await, Ok(Some(winners[0])));
}
