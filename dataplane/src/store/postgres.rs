//! The PostgreSQL engine, for stores that members share (decision 24). It works on one thread of its own:
//! no request's thread waits for a socket, and a caller that goes away stops nothing halfway.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};
use zeroize::Zeroizing;

use super::{Connections, Page, Put, Row, Store, StoreError, StoreStatus, Swap, Table};
use crate::config::Postgres;
use crate::metrics::Calls;

mod connect;
mod durability;
mod failure;
mod operations;
mod pool;
mod schema;
mod session;
mod tls;
mod watch;

use connect::Dialer;
pub use durability::Durability;
use pool::Pool;

/// Where the password is unless a file is named; the name is that of PostgreSQL's own programs.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    pool: Arc<Pool>,
    /// Ends with the store, without waiting: what is under way is in the server's hands.
    runtime: Option<Runtime>,
    handle: Handle,
}

/// Makes the tables that are missing, as the role of `settings`, and lets `grant_to` use them.
/// Gives the schema's version before and after.
///
/// # Errors
/// The server cannot be reached, refuses, or has a newer schema. Nothing was changed then.
pub async fn migrate(
    settings: &Postgres,
    grant_to: Option<&str>,
) -> Result<(i32, i32), StoreError> {
    let dialer = Dialer::new(settings.clone(), password(), Arc::default())
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let (mut client, _, _) = dialer.primary().await?;
    let versions = schema::migrate(&mut client, &settings.schema).await?;
    if let Some(role) = grant_to {
        schema::grant(&client, &settings.schema, role).await?;
    }
    Ok(versions)
}

fn password() -> Option<Zeroizing<String>> {
    std::env::var(PASSWORD_VARIABLE).ok().map(Zeroizing::new)
}

// === impl PostgresStore ===

impl PostgresStore {
    /// Starts to look for the server; `report` hears of every change. A server that is away is no error:
    /// operations say so until it is there.
    ///
    /// # Errors
    /// The file of the roots cannot be used, or no thread can be made.
    pub fn open(
        settings: &Postgres,
        report: impl Fn(StoreStatus) + Send + 'static,
    ) -> io::Result<Self> {
        Self::counting(settings, Arc::default(), report)
    }

    /// The same, with its statements and connections counted.
    pub(crate) fn counting(
        settings: &Postgres,
        calls: Arc<Calls>,
        report: impl Fn(StoreStatus) + Send + 'static,
    ) -> io::Result<Self> {
        let dialer = Dialer::new(settings.clone(), password(), calls)?;
        let pool = Arc::new(Pool::new(dialer));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store")
            .enable_all()
            .build()?;
        runtime.spawn(watch::run(Arc::clone(&pool), report));
        let handle = runtime.handle().clone();
        Ok(Self { pool, runtime: Some(runtime), handle })
    }

    fn on_its_thread<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        Box::pin(async move {
            let ended = |_| Err(StoreError::Unavailable("the store is closed".to_owned()));
            self.handle.spawn(work).await.unwrap_or_else(ended)
        })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for PostgresStore {
    fn connections(&self) -> Option<Connections> {
        Some(self.pool.connections())
    }

    fn get(&self, table: Table, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        self.on_its_thread(operations::get(Arc::clone(&self.pool), table, key))
    }

    fn put_if_absent(&self, table: Table, row: Row) -> BoxFuture<'_, Result<Put, StoreError>> {
        self.on_its_thread(operations::put(Arc::clone(&self.pool), table, row))
    }

    fn compare_and_swap(
        &self,
        table: Table,
        expected: Option<Bytes>,
        row: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>> {
        self.on_its_thread(operations::swap(Arc::clone(&self.pool), table, expected, row))
    }

    fn list(
        &self,
        table: Table,
        keyspace: String,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        let pool = Arc::clone(&self.pool);
        self.on_its_thread(operations::page(pool, table, Some(keyspace), after, rows_max))
    }

    fn scan(
        &self,
        table: Table,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        let pool = Arc::clone(&self.pool);
        self.on_its_thread(operations::page(pool, table, None, after, rows_max))
    }
}
