//! A database with the store's tables, and engines on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use devpostgres::{SUPERUSER, Server};
use sigil_dataplane::config::{Postgres, PostgresAddress, SslMode};
use sigil_dataplane::store::{PostgresStore, Row, StoreError, StoreStatus, migrate};
use tokio::sync::watch;

/// Longest wait for anything; generous, since machines of tests are shared.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The role that the engine works as.
pub(crate) const ROLE: &str = "signer";

/// A server and how to reach it.
pub(crate) struct Database {
    pub(crate) server: Server,
    pub(crate) settings: Postgres,
}

/// An engine and what it says of itself.
pub(crate) struct Engine {
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) status: watch::Receiver<StoreStatus>,
}

// === impl Database ===

impl Database {
    /// One whose tables are made, accepted without a standby.
    pub(crate) async fn start() -> Self {
        let database = Self::empty(&[]);
        database.migrate().await;
        database
    }

    /// One without tables.
    pub(crate) fn empty(settings: &[(&str, &str)]) -> Self {
        let server = Server::start(settings).unwrap();
        server.sql(&format!("CREATE ROLE {ROLE} LOGIN")).unwrap();
        let settings = settings_of(&server, ROLE);
        Self { server, settings }
    }

    /// Makes the tables as their owner, and gives them to the engine's role.
    pub(crate) async fn migrate(&self) {
        let owner = Postgres { user: SUPERUSER.to_owned(), ..self.settings.clone() };
        migrate(&owner, Some(ROLE)).await.unwrap();
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::open(&self.settings)
    }
}

/// Short waits, so that every fault has its answer quickly.
pub(crate) fn settings_of(server: &Server, user: &str) -> Postgres {
    Postgres {
        addresses: vec![socket_of(server)],
        database: "postgres".to_owned(),
        user: user.to_owned(),
        ssl_mode: SslMode::Disable,
        connections: 4,
        accept_single_node_durability: true,
        // What is not about time must not fail for the machine's.
        connect_timeout_ms: 30_000,
        acquire_timeout_ms: 30_000,
        statement_timeout_ms: 30_000,
        ..Postgres::default()
    }
}

pub(crate) fn socket_of(server: &Server) -> PostgresAddress {
    PostgresAddress::Unix(server.folder().join(format!(".s.PGSQL.{}", server.port())))
}

// === impl Engine ===

impl Engine {
    pub(crate) fn open(settings: &Postgres) -> Self {
        let (report, status) = watch::channel(StoreStatus::default());
        let report = move |said| {
            report.send_replace(said);
        };
        Self { store: Arc::new(PostgresStore::open(settings, report).unwrap()), status }
    }

    /// Waits until the engine says what is expected of it.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        expected: impl Fn(&StoreStatus) -> bool,
    ) -> StoreStatus {
        let waiting = self.status.wait_for(expected);
        if let Ok(status) = tokio::time::timeout(PATIENCE, waiting).await {
            return status.unwrap().clone();
        }
        panic!("not in time: {what}; it says {:?}", *self.status.borrow())
    }

    pub(crate) async fn works(&mut self) -> StoreStatus {
        self.until("the store works", |status| status.durable).await
    }
}

/// Asks until there is an answer. Panics with `what` when patience ends.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

pub(crate) fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

pub(crate) fn row(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Row {
    Row { keyspace: "default".to_owned(), key: bytes(key), value: bytes(value) }
}

pub(crate) fn is_unavailable<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

pub(crate) fn is_denied<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Denied(_)))
}
