//! One connection with its prepared statements.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Statement};

use super::super::{StoreError, Table};
use super::failure::Failure;
use super::schema::{Kind, Sql};
use crate::metrics::Connected;

/// Set when the server warned. It does so when a commit stopped waiting for its standby, and then
/// reports success all the same.
pub(super) type Warned = Arc<AtomicBool>;

/// A connection. Statements are prepared once each; nothing else of the server's session is relied on.
pub(super) struct Session {
    client: Client,
    warned: Warned,
    sql: Sql,
    prepared: HashMap<(Kind, Table), Statement>,
    /// Counts it for as long as it is kept.
    _connected: Connected,
}

// === impl Session ===

impl Session {
    pub(super) fn new(client: Client, warned: Warned, sql: Sql, connected: Connected) -> Self {
        Self { client, warned, sql, prepared: HashMap::new(), _connected: connected }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    async fn prepared(&mut self, kind: Kind, table: Table) -> Result<Statement, Failure> {
        if let Some(statement) = self.prepared.get(&(kind, table)) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&self.sql.statement(kind, table)).await?;
        self.prepared.insert((kind, table), statement.clone());
        Ok(statement)
    }

    /// Value of a row.
    pub(super) async fn value(
        &mut self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Bytes>, Failure> {
        let statement = self.prepared(Kind::Get, table).await?;
        let row = self.client.query_opt(&statement, &[&key]).await?;
        Ok(row.map(|row| Bytes::from(row.get::<_, Vec<u8>>(0))))
    }

    /// Keys and values that [`Kind::List`] or [`Kind::Scan`] finds.
    pub(super) async fn rows(
        &mut self,
        kind: Kind,
        table: Table,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<(Bytes, Bytes)>, Failure> {
        let statement = self.prepared(kind, table).await?;
        let rows = self.client.query(&statement, parameters).await?;
        let pair = |row: tokio_postgres::Row| {
            (row.get::<_, Vec<u8>>(0).into(), row.get::<_, Vec<u8>>(1).into())
        };
        Ok(rows.into_iter().map(pair).collect())
    }

    /// Runs [`Kind::Insert`] or [`Kind::Update`]; true if it changed a row. The commit is part of it.
    pub(super) async fn write(
        &mut self,
        kind: Kind,
        table: Table,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<bool, Failure> {
        let statement = self.prepared(kind, table).await?;
        self.warned.store(false, Ordering::Relaxed);
        let changed = self.client.execute(&statement, parameters).await?;
        if changed > 0 && self.warned.load(Ordering::Relaxed) {
            return Err(Failure::Unknown(StoreError::Unavailable(
                "the server warned while it committed: a standby may not have the row".to_owned(),
            )));
        }
        Ok(changed > 0)
    }
}

/// Moves the bytes of a connection until it ends.
pub(super) fn drive<S, T>(mut connection: Connection<S, T>, warned: Warned)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message
                && notice.parsed_severity() == Some(Severity::Warning)
            {
                warned.store(true, Ordering::Relaxed);
                tracing::warn!(warning = notice.message(), "PostgreSQL warns");
            }
        }
    });
}
