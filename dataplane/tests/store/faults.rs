//! The server goes away in every way that can be made. Missing, denied and corrupt stay apart, and nothing
//! needs a restart.

use std::net::Ipv4Addr;

use sigil_dataplane::config::{Postgres, PostgresAddress, SslMode};
use sigil_dataplane::store::{Put, Store, StoreError, Table, migrate};

use crate::support::{
    Database, Engine, ROLE, bytes, eventually, is_denied, is_unavailable, row, settings_of,
};

/// Answers within a moment while the server does not.
fn impatient(database: &Database) -> Postgres {
    Postgres {
        connect_timeout_ms: 200,
        acquire_timeout_ms: 200,
        statement_timeout_ms: 200,
        ..database.settings.clone()
    }
}

async fn stored(engine: &Engine, key: &str) {
    eventually("a row is stored", async || {
        let put = engine.store.put_if_absent(Table::Key, row(key, "v")).await;
        // An earlier try may have been answered too late.
        matches!(put, Ok(Put::Stored | Put::Exists(_))).then_some(())
    })
    .await;
    assert_eq!(engine.store.get(Table::Key, bytes(key)).await, Ok(Some(bytes("v"))));
}

#[tokio::test]
async fn a_killed_server_is_an_answer_and_its_return_needs_no_restart() {
    let mut database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    stored(&engine, "before").await;
    for _ in 0..2 {
        database.server.kill().unwrap();
        let answer = engine.store.get(Table::Key, bytes("before")).await;
        assert!(is_unavailable(&answer), "not missing: {answer:?}");
        engine.until("the outage", |status| !status.durable && status.ready).await;
        database.server.launch().unwrap();
        engine.works().await;
        stored(&engine, "before").await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_found_later() {
    let mut database = Database::start().await;
    database.server.kill().unwrap();
    let mut engine = database.engine();
    let status = engine.until("the outage", |status| status.error.is_some()).await;
    assert!(!status.ready, "it never worked");
    database.server.launch().unwrap();
    assert!(engine.works().await.ready);
    stored(&engine, "a").await;
}

/// Its kernel still accepts connections, and nobody answers.
#[tokio::test]
async fn a_paused_server_holds_a_few_connections_and_goes_on_where_it_was() {
    let database = Database::start().await;
    let mut engine = Engine::open(&impatient(&database));
    stored(&engine, "before").await;
    database.server.pause().unwrap();
    let asks = (0..40).map(|n: u8| {
        let store = engine.store.clone();
        async move { store.put_if_absent(Table::Key, row([n], "v")).await }
    });
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(is_unavailable), "{answers:?}");
    let fast = engine.store.get(Table::Key, bytes("before")).await;
    assert!(is_unavailable(&fast), "{fast:?}");
    engine.until("the outage", |status| !status.durable).await;
    database.server.resume().unwrap();
    engine.works().await;
    stored(&engine, "after").await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'signer'";
    eventually("no more connections than are set, and the watch's", async || {
        let found: usize = database.server.sql(connections).unwrap().parse().unwrap();
        (found <= database.settings.connections + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_read_only_server_denies_writes_and_is_read() {
    let database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    stored(&engine, "before").await;
    let set = |value| {
        let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        // Its own transaction would be read-only.
        database.server.sql("SELECT 1").unwrap();
        database.server.sql(&sql).unwrap();
        database.server.sql("SELECT pg_reload_conf()").unwrap();
    };
    set("on");
    eventually("writes are denied", async || {
        let put = engine.store.put_if_absent(Table::Key, row("denied", "v")).await;
        is_denied(&put).then_some(())
    })
    .await;
    assert_eq!(engine.store.get(Table::Key, bytes("before")).await, Ok(Some(bytes("v"))));
    let status = engine.until("it says so", |status| !status.durable).await;
    assert!(status.error.unwrap().contains("read-only"));
    set("off");
    engine.works().await;
    stored(&engine, "after").await;
}

#[tokio::test]
async fn missing_denied_and_corrupt_are_three_things() {
    let database = Database::start().await;
    let mut engine = database.engine();
    engine.works().await;
    let get = async |key: &str| engine.store.get(Table::Key, bytes(key)).await;
    assert_eq!(get("a").await, Ok(None), "missing");
    let sql = |text: &str| database.server.sql(text).unwrap();
    sql(&format!("REVOKE ALL ON sigil.key FROM {ROLE}"));
    let denied = get("a").await;
    assert!(is_denied(&denied), "{denied:?}");
    assert!(is_denied(&engine.store.put_if_absent(Table::Key, row("a", "v")).await));
    sql(&format!("GRANT SELECT ON sigil.key TO {ROLE}"));
    assert_eq!(get("a").await, Ok(None));
    assert!(is_denied(&engine.store.put_if_absent(Table::Key, row("a", "v")).await));
    sql("ALTER TABLE sigil.key RENAME TO gone");
    let corrupt = get("a").await;
    assert!(matches!(corrupt, Err(StoreError::Corrupt(_))), "{corrupt:?}");
    sql("ALTER TABLE sigil.gone RENAME TO key");
    assert_eq!(get("a").await, Ok(None));
}

/// An empty or another database is no store in which keys are missing.
#[tokio::test]
async fn a_database_without_tables_and_another_store_are_not_read() {
    let mut database = Database::empty(&[]);
    let mut engine = database.engine();
    let status = engine.until("the reason", |status| status.error.is_some()).await;
    assert!(status.error.unwrap().contains("ctl store migrate"));
    assert!(is_unavailable(&engine.store.get(Table::Key, bytes("a")).await));
    database.migrate().await;
    engine.works().await;
    stored(&engine, "a").await;

    database.server.kill().unwrap();
    database.server.launch().unwrap();
    database.server.sql("DROP SCHEMA sigil CASCADE").unwrap();
    database.migrate().await;
    let wrong = engine
        .until("the other store", |status| {
            status.error.as_ref().is_some_and(|error| error.contains("another store"))
        })
        .await;
    assert!(!wrong.durable);
    eventually("nobody is told that the key is missing", async || {
        let answer = engine.store.get(Table::Key, bytes("a")).await;
        assert_ne!(answer, Ok(None));
        answer.unwrap_err().to_string().contains("another store").then_some(())
    })
    .await;
}

/// On the loopback address, where certificates have names.
fn over_tls(database: &Database, ca: &std::path::Path) -> Postgres {
    let address = PostgresAddress::Tcp(Ipv4Addr::LOCALHOST.to_string(), database.server.port());
    Postgres {
        addresses: vec![address],
        ssl_mode: SslMode::VerifyFull,
        ca_file: Some(ca.to_owned()),
        password_file: Some(ca.with_file_name("password")),
        ..settings_of(&database.server, ROLE)
    }
}

#[tokio::test]
async fn tls_and_the_password_are_checked_on_both_sides() {
    const PASSWORD: &str = "not-to-be-seen-7f3a";
    let database = Database::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (ca, password) = (folder.path().join("ca.pem"), folder.path().join("password"));
    let plain = over_tls(&database, &ca);
    let certificates = database.server.offer_tls("127.0.0.1").unwrap();
    std::fs::write(&ca, certificates.authority_pem).unwrap();
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    database.server.sql(&format!("ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")).unwrap();
    database
        .server
        .set_access("local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        .unwrap();
    let settings = over_tls(&database, &ca);
    eventually("TLS", async || {
        let engine = Engine::open(&settings);
        engine.store.get(Table::Key, bytes("a")).await.is_ok().then_some(())
    })
    .await;
    let ssl = "SELECT bool_and(version = 'TLSv1.3') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE usename = 'signer'";
    let engine = Engine::open(&settings);
    stored(&engine, "a").await;
    assert_eq!(database.server.sql(ssl).unwrap(), "t");

    let refused = async |settings: &Postgres| {
        let error = Engine::open(settings).store.get(Table::Key, bytes("a")).await.unwrap_err();
        assert!(!error.to_string().contains(PASSWORD), "{error}");
        error
    };
    std::fs::write(&password, "another").unwrap();
    assert!(matches!(refused(&settings).await, StoreError::Denied(_)));
    std::fs::remove_file(&password).unwrap();
    assert!(refused(&settings).await.to_string().contains("passwordFile"));
    let cleartext = Postgres { ssl_mode: SslMode::Disable, ..plain };
    std::fs::write(&password, PASSWORD).unwrap();
    assert!(matches!(refused(&cleartext).await, StoreError::Denied(_)), "the server asks for TLS");

    let other = database.server.offer_tls("db.example").unwrap();
    eventually("the other name", async || {
        let _ = other;
        refused_for(&settings, "certificate").await
    })
    .await;
}

async fn refused_for(settings: &Postgres, why: &str) -> Option<()> {
    let error = Engine::open(settings).store.get(Table::Key, bytes("a")).await.err()?;
    error.to_string().contains(why).then_some(())
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_cleartext() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(folder.path().join("password"), "secret").unwrap();
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    let engine = Engine::open(&over_tls(&database, &ca));
    let error = engine.store.get(Table::Key, bytes("a")).await.unwrap_err();
    assert!(error.to_string().contains("does not support TLS"), "{error}");
    let nobody = Postgres { user: "nobody".to_owned(), ..database.settings.clone() };
    assert!(matches!(migrate(&nobody, None).await, Err(StoreError::Denied(_))));
}
