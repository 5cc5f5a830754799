//! The engine's operations. Each is one statement that commits by itself. After a connection that ended
//! without an answer a write is made again: that finds out what became of the first one, which may
//! still be running, since PostgreSQL lets the second wait for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::{Page, Put, Row, StoreError, Swap, Table};
use super::failure::Failure;
use super::pool::Pool;
use super::schema::Kind;
use super::session::Session;
use crate::pool::backoff::{Backoff, random};

/// Waits between tries: a server that restarts needs about a second.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(250);

/// What a write found.
enum Found {
    /// It is made.
    Written,
    /// The row holds this.
    There(Option<Bytes>),
}

/// The tries of one operation.
struct Tries {
    until: Instant,
    backoff: Backoff,
    writes: bool,
    /// An earlier try may have written.
    uncertain: bool,
}

// === impl Tries ===

impl Tries {
    fn new(pool: &Pool, writes: bool) -> Self {
        Self {
            until: Instant::now() + pool.dialer.settings.statement_timeout(),
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            writes,
            uncertain: false,
        }
    }

    /// Waits for the next try, or gives the error to answer with.
    async fn after(&mut self, failure: Failure) -> Result<(), StoreError> {
        let again = matches!(failure, Failure::Lost(_) | Failure::Again(_)) || self.uncertain;
        self.uncertain |= self.writes && matches!(failure, Failure::Lost(_));
        if !again || matches!(failure, Failure::Unknown(_)) || Instant::now() >= self.until {
            let error = failure.into_error();
            return Err(if self.uncertain { undecided(&error) } else { error });
        }
        sleep(self.backoff.wait(random())).await;
        Ok(())
    }
}

fn undecided(error: &StoreError) -> StoreError {
    StoreError::Unavailable(format!("whether the row is stored is not known: {error}"))
}

/// Reads one row.
pub(super) async fn get(
    pool: Arc<Pool>,
    table: Table,
    key: Bytes,
) -> Result<Option<Bytes>, StoreError> {
    let mut tries = Tries::new(&pool, false);
    loop {
        let key = key.clone();
        let read = pool.statement(move |session: &mut Session| {
            Box::pin(async move { session.value(table, &key).await })
        });
        match read.await {
            Ok(value) => return Ok(value),
            Err(failure) => tries.after(failure).await?,
        }
    }
}

/// Rows in order of their keys: of a keyspace, or of the whole table.
pub(super) async fn page(
    pool: Arc<Pool>,
    table: Table,
    keyspace: Option<String>,
    after: Option<Bytes>,
    rows_max: usize,
) -> Result<Page, StoreError> {
    // One more tells whether there is a next page. No key is empty.
    let limit = i64::try_from(rows_max).unwrap_or(i64::MAX).saturating_add(1);
    let after = after.unwrap_or_default();
    let mut tries = Tries::new(&pool, false);
    loop {
        let (keyspace, after) = (keyspace.clone(), after.clone());
        let read = pool.statement(move |session: &mut Session| {
            Box::pin(async move {
                let after = &after[..];
                match &keyspace {
                    Some(keyspace) => {
                        session.rows(Kind::List, table, &[keyspace, &after, &limit]).await
                    }
                    None => session.rows(Kind::Scan, table, &[&after, &limit]).await,
                }
            })
        });
        match read.await {
            Ok(mut rows) => {
                let more = rows.len() > rows_max;
                rows.truncate(rows_max);
                let last = rows.last().map(|(key, _)| key.clone());
                return Ok(Page { rows, next: last.filter(|_| more) });
            }
            Err(failure) => tries.after(failure).await?,
        }
    }
}

/// Writes a row unless one with its key exists.
pub(super) async fn put(pool: Arc<Pool>, table: Table, row: Row) -> Result<Put, StoreError> {
    let (found, _) = write(pool, table, None, row).await?;
    match found {
        Found::Written => Ok(Put::Stored),
        Found::There(Some(there)) => Ok(Put::Exists(there)),
        Found::There(None) => Err(vanished()),
    }
}

/// Writes a row if the old value (or its absence) is as expected.
pub(super) async fn swap(
    pool: Arc<Pool>,
    table: Table,
    expected: Option<Bytes>,
    row: Row,
) -> Result<Swap, StoreError> {
    let (found, uncertain) = write(pool, table, expected, row).await?;
    match found {
        Found::Written => Ok(Swap::Swapped),
        // Ours may have been there in between.
        Found::There(_) if uncertain => Err(undecided(&StoreError::Unavailable(
            "the connection was lost and the row holds something else now".to_owned(),
        ))),
        Found::There(there) => Ok(Swap::Differs(there)),
    }
}

fn vanished() -> StoreError {
    StoreError::Corrupt("a row was in the way and is not there".to_owned())
}

/// Writes, as often as is needed to know; also says whether a try before the last may have written.
async fn write(
    pool: Arc<Pool>,
    table: Table,
    expected: Option<Bytes>,
    row: Row,
) -> Result<(Found, bool), StoreError> {
    let mut tries = Tries::new(&pool, true);
    loop {
        let (expected, row, judge) = (expected.clone(), row.clone(), Arc::clone(&pool));
        let uncertain = tries.uncertain;
        let write = pool.statement(move |session: &mut Session| {
            Box::pin(async move {
                if let Some(why) = judge.objection() {
                    return Err(Failure::Refused(StoreError::Unavailable(format!(
                        "writes are refused: {why}"
                    ))));
                }
                if uncertain && confirmed(session, table, &row).await? {
                    return Ok(Found::Written);
                }
                write_once(session, table, expected.as_deref(), &row).await
            })
        });
        match write.await {
            Ok(found) => return Ok((found, tries.uncertain)),
            Err(failure) => tries.after(failure).await?,
        }
    }
}

/// That a row can be read does not mean that the standby has it: the commit that was cut off may have been
/// waiting. Writing it once more as it is waits for everything before, too.
async fn confirmed(session: &mut Session, table: Table, row: &Row) -> Result<bool, Failure> {
    let (key, value) = (&row.key[..], &row.value[..]);
    session.write(Kind::Update, table, &[&key, &value, &value]).await
}

async fn write_once(
    session: &mut Session,
    table: Table,
    expected: Option<&[u8]>,
    row: &Row,
) -> Result<Found, Failure> {
    let (key, value) = (&row.key[..], &row.value[..]);
    let written = match expected {
        None => session.write(Kind::Insert, table, &[&key, &row.keyspace, &value]).await?,
        Some(old) => session.write(Kind::Update, table, &[&key, &value, &old]).await?,
    };
    if written {
        return Ok(Found::Written);
    }
    let there = session.value(table, key).await?;
    // Changed between the two statements: what was in the way is not any more.
    if there.as_deref() == expected {
        return Err(Failure::Again(StoreError::Unavailable("the row keeps changing".to_owned())));
    }
    Ok(Found::There(there))
}
