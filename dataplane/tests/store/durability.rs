//! What the server's settings mean for writes, and what a standby is waited for.

use sigil_dataplane::config::Postgres;
use sigil_dataplane::store::{Put, Store, Table};

use crate::support::{Database, Engine, ROLE, bytes, eventually, is_unavailable, row, socket_of};

/// Not accepted: one machine.
fn strict(database: &Database) -> Postgres {
    Postgres { accept_single_node_durability: false, ..database.settings.clone() }
}

#[tokio::test]
async fn one_machine_is_enough_only_when_that_is_accepted() {
    let database = Database::start().await;
    let mut engine = Engine::open(&strict(&database));
    let status = engine.until("the objection", |status| status.durability.is_some()).await;
    assert!(!status.durable && !status.ready);
    let error = status.error.unwrap();
    assert!(error.contains("store.postgres.acceptSingleNodeDurability: true"), "{error}");
    assert!(error.contains("synchronous_standby_names is empty"), "{error}");
    let refused = engine.store.put_if_absent(Table::Key, row("a", "1")).await;
    assert!(is_unavailable(&refused), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("writes are refused"));
    assert_eq!(engine.store.get(Table::Key, bytes("a")).await, Ok(None), "reads go on");

    let mut accepting = database.engine();
    let status = accepting.works().await;
    let durability = status.durability.unwrap();
    assert_eq!(durability.synchronous_commit, "on");
    assert_eq!((durability.fsync.as_str(), durability.full_page_writes.as_str()), ("on", "on"));
    let put = accepting.store.put_if_absent(Table::Key, row("a", "1")).await;
    assert_eq!(put, Ok(Put::Stored));
}

#[tokio::test]
async fn a_server_that_forgets_is_never_accepted() {
    let database = Database::empty(&[("fsync", "off")]);
    database.migrate().await;
    let mut engine = database.engine();
    let status = engine.until("the objection", |status| status.error.is_some()).await;
    assert!(status.error.unwrap().contains("set fsync = on"));
    assert!(!status.ready);
    assert!(is_unavailable(&engine.store.put_if_absent(Table::Key, row("a", "1")).await));

    let database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    database.server.sql(&format!("ALTER ROLE {ROLE} SET synchronous_commit = off")).unwrap();
    // Sessions keep what they began with.
    database
        .server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'signer'")
        .unwrap();
    let status = engine
        .until("the objection", |status| !status.durable && status.durability.is_some())
        .await;
    assert!(status.error.unwrap().contains("ALTER ROLE"));
    assert!(status.ready, "it was ready and reads go on");
    assert!(is_unavailable(&engine.store.put_if_absent(Table::Key, row("a", "1")).await));
}

/// The backend that waits for a standby.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'signer'";

async fn waits_for_a_standby(database: &Database) {
    eventually("a commit waits", async || {
        (database.server.sql(WAITING).unwrap() == "1").then_some(())
    })
    .await;
}

/// PostgreSQL says "committed" when a wait for a standby is cancelled, with a warning beside it.
#[tokio::test]
async fn a_commit_whose_wait_for_the_standby_is_cancelled_is_not_acknowledged() {
    let database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    set_standbys(&database, "nobody");
    let store = engine.store.clone();
    let put = tokio::spawn(async move { store.put_if_absent(Table::Key, row("a", "1")).await });
    waits_for_a_standby(&database).await;
    database
        .server
        .sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        .unwrap();
    let answer = put.await.unwrap();
    assert!(is_unavailable(&answer), "{answer:?}");
    assert!(answer.unwrap_err().to_string().contains("a standby may not have the row"));
}

/// The row can be read although no standby has it: reading it back would be a lie.
#[tokio::test]
async fn a_connection_that_is_lost_while_a_commit_waits_is_acknowledged_when_the_standby_has_the_row()
 {
    let database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    set_standbys(&database, "nobody");
    let store = engine.store.clone();
    let put = tokio::spawn(async move { store.put_if_absent(Table::Key, row("a", "1")).await });
    waits_for_a_standby(&database).await;
    database
        .server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        .unwrap();
    eventually("the row can be read", async || {
        (database.server.sql("SELECT count(*) FROM sigil.key").unwrap() == "1").then_some(())
    })
    .await;
    waits_for_a_standby(&database).await;
    assert!(!put.is_finished(), "it waits for the standby again");
    set_standbys(&database, "");
    assert_eq!(put.await.unwrap(), Ok(Put::Stored));
    assert_eq!(database.server.sql("SELECT count(*) FROM sigil.key").unwrap(), "1");
}

fn set_standbys(database: &Database, names: &str) {
    database
        .server
        .sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))
        .unwrap();
    database.server.sql("SELECT pg_reload_conf()").unwrap();
    let shown = || database.server.sql("SHOW synchronous_standby_names").unwrap();
    while shown() != names {}
}

#[tokio::test]
async fn with_a_synchronous_standby_nothing_acknowledged_is_lost_when_the_server_is() {
    let mut database = Database::start().await;
    let standby = database.server.standby("other").unwrap();
    set_standbys(&database, "other");
    let both = vec![socket_of(&standby), socket_of(&database.server)];
    let settings = Postgres { addresses: both, ..strict(&database) };
    let mut engine = Engine::open(&settings);
    let status = engine.works().await;
    assert_eq!(status.durability.unwrap().synchronous_standby_names, "other");
    let mut acknowledged = Vec::new();
    for n in 0..50_u8 {
        let put = engine.store.put_if_absent(Table::Key, row([1, n], [n])).await;
        assert_eq!(put, Ok(Put::Stored));
        acknowledged.push(n);
    }
    database.server.kill().unwrap();
    engine.until("the outage", |status| !status.durable).await;
    let status = engine.status.borrow().clone();
    assert!(status.ready, "all members share the outage");
    assert!(is_unavailable(&engine.store.get(Table::Key, bytes([1, 0])).await));

    standby.promote().unwrap();
    // The new primary still names the standby that it was.
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''").unwrap();
    standby.sql("SELECT pg_reload_conf()").unwrap();
    let status = engine.until("the new primary", |status| status.durability.is_some()).await;
    let replicated = status.durability.unwrap();
    eventually("every row is there", async || {
        let key = bytes([1, 0]);
        (engine.store.get(Table::Key, key).await == Ok(Some(bytes([0])))).then_some(())
    })
    .await;
    for n in acknowledged {
        assert_eq!(engine.store.get(Table::Key, bytes([1, n])).await, Ok(Some(bytes([n]))));
    }
    assert_eq!(replicated.read_only, "off");
    let alone = engine.until("alone now", |status| status.error.is_some()).await;
    assert!(alone.error.unwrap().contains("acceptSingleNodeDurability"));
    assert!(is_unavailable(&engine.store.put_if_absent(Table::Key, row("new", "1")).await));
}
