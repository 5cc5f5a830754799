//! The one thread that writes. It takes whatever is queued, applies it in order in one transaction,
//! commits with one fsync, and only then answers.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use super::super::{Put, Row, StoreError, Swap, Table};
use super::slot::Slot;
use super::{FORMAT_NAME, FORMAT_VERSION, META};

/// Writes of one commit. Bounds what one failed commit takes with it.
const GROUP_MAX: usize = 256;
/// Time between two tries to write again after a failed commit. A member that is not ready gets no
/// request that would try; a disk is freed by hand, so a second more is not felt.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);

/// `table byte | keyspace | 0 | key`, for lists. No keyspace holds a zero byte.
pub(super) const BY_KEYSPACE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("by_keyspace");

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A write and whom to tell.
pub(super) struct Queued {
    pub(super) table: Table,
    pub(super) row: Row,
    pub(super) change: Change,
}

pub(super) enum Change {
    Put(oneshot::Sender<Result<Put, StoreError>>),
    Swap(Option<Bytes>, oneshot::Sender<Result<Swap, StoreError>>),
}

/// What a write will answer once its commit is durable.
enum Outcome {
    Put(Put),
    Swap(Swap),
}

pub(super) fn rows(table: Table) -> Rows {
    TableDefinition::new(match table {
        Table::Dek => "dek",
        Table::Current => "current",
        Table::Document => "document",
        Table::Key => "key",
    })
}

pub(super) fn index_key(table: Table, keyspace: &str, key: &[u8]) -> Vec<u8> {
    [&[table as u8], keyspace.as_bytes(), &[0], key].concat()
}

/// Makes every table, so that readers never meet an absent one.
pub(super) fn make_tables(
    database: &Database,
    fill_meta: impl FnOnce(&mut redb::Table<'_, &'static str, u64>) -> Result<(), redb::StorageError>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in [Table::Dek, Table::Current, Table::Document, Table::Key] {
        transaction.open_table(rows(table))?;
    }
    transaction.open_table(BY_KEYSPACE)?;
    fill_meta(&mut transaction.open_table(META)?)?;
    Ok(transaction.commit()?)
}

/// Runs until every sender is gone and the queue is empty.
pub(super) fn run(slot: &Slot, queue: &Receiver<Queued>, durable: &dyn Fn(bool)) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut was_durable = true;
    loop {
        match next(queue, was_durable) {
            Ok(first) => group.push(first),
            Err(RecvTimeoutError::Timeout) => {
                was_durable = heal(slot);
                if was_durable {
                    tracing::info!("store writes again");
                    durable(true);
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        group.extend(queue.try_iter().take(GROUP_MAX - 1));
        let result = slot.with(|database| commit(database, &group));
        if result.is_ok() != was_durable {
            was_durable = result.is_ok();
            durable(was_durable);
        }
        match result {
            Ok(outcomes) => {
                group.drain(..).zip(outcomes).for_each(|(queued, outcome)| answer(queued, outcome));
            }
            Err(error) => {
                tracing::error!(%error, writes = group.len(), "store commit failed");
                group.drain(..).for_each(|queued| refuse(queued, error.clone()));
                slot.reopen();
            }
        }
    }
}

/// Waits for a write; while the last commit failed, no longer than until the next try.
fn next(queue: &Receiver<Queued>, was_durable: bool) -> Result<Queued, RecvTimeoutError> {
    if was_durable {
        return queue.recv().map_err(|_| RecvTimeoutError::Disconnected);
    }
    queue.recv_timeout(HEAL_INTERVAL)
}

/// Commits what the file says already; true if that is durable. Otherwise the file is opened again,
/// so that reads work before writes do.
fn heal(slot: &Slot) -> bool {
    let written = slot.with(|database| {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(FORMAT_NAME, FORMAT_VERSION)?;
        Ok(transaction.commit()?)
    });
    if written.is_err() {
        slot.reopen();
    }
    written.is_ok()
}

fn commit(database: &Database, group: &[Queued]) -> Result<Vec<Outcome>, redb::Error> {
    let transaction = database.begin_write()?;
    let outcomes =
        group.iter().map(|queued| apply(&transaction, queued)).collect::<Result<_, _>>()?;
    transaction.commit()?;
    Ok(outcomes)
}

fn apply(transaction: &WriteTransaction, queued: &Queued) -> Result<Outcome, redb::Error> {
    let Queued { table, row, change } = queued;
    let mut rows = transaction.open_table(self::rows(*table))?;
    let old = rows.get(&row.key[..])?.map(|value| Bytes::copy_from_slice(value.value()));
    let outcome = match (change, old) {
        (Change::Put(_), Some(old)) => return Ok(Outcome::Put(Put::Exists(old))),
        (Change::Put(_), None) => Outcome::Put(Put::Stored),
        (Change::Swap(expected, _), old) if *expected == old => Outcome::Swap(Swap::Swapped),
        (Change::Swap(..), old) => return Ok(Outcome::Swap(Swap::Differs(old))),
    };
    rows.insert(&row.key[..], &row.value[..])?;
    if !row.keyspace.is_empty() {
        let key = index_key(*table, &row.keyspace, &row.key);
        transaction.open_table(BY_KEYSPACE)?.insert(&key[..], ())?;
    }
    Ok(outcome)
}

/// A caller that went away is no error: its write is durable all the same.
fn answer(queued: Queued, outcome: Outcome) {
    match (queued.change, outcome) {
        (Change::Put(reply), Outcome::Put(put)) => drop(reply.send(Ok(put))),
        (Change::Swap(_, reply), Outcome::Swap(swap)) => drop(reply.send(Ok(swap))),
        (Change::Put(_), Outcome::Swap(_)) | (Change::Swap(..), Outcome::Put(_)) => {}
    }
}

fn refuse(queued: Queued, error: StoreError) {
    match queued.change {
        Change::Put(reply) => drop(reply.send(Err(error))),
        Change::Swap(_, reply) => drop(reply.send(Err(error))),
    }
}
