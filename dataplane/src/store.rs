//! Where sealed keys are kept. An engine knows tables, keys and bytes; [`Records`] knows what the
//! bytes mean (`docs/formats.md`, "Store records"). "Missing", "denied" and "corrupt" are three
//! different things, and none of them ever makes a new key. Two engines: a file of this machine, and a
//! PostgreSQL database for several members.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

mod backup;
mod embedded;
mod postgres;
mod record;

pub use backup::{BackupError, Outcome, backup, restore, verify as verify_backup};
pub use embedded::{EmbeddedStore, OpenError};
pub use postgres::{Durability, PostgresStore, migrate};
#[cfg(test)]
pub(crate) use record::tests::key_record as record_for_tests;
pub use record::{CurrentRecord, DekRecord, DocumentRecord, KeyRecord, RecordError};

/// The tables of every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// DEKs by dek id, write-once.
    Dek,
    /// Which DEK seals for an image, by keyspace and PCR0, compare-and-swap.
    Current,
    /// Attestation documents by their SHA-256, write-once.
    Document,
    /// Keys by key id, put-if-absent.
    Key,
}

/// One row as an engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the row is listed under; empty for rows that are never listed.
    pub keyspace: String,
    /// Primary key within its table.
    pub key: Bytes,
    /// The record.
    pub value: Bytes,
}

/// Outcome of a put-if-absent that reached the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The row is durable.
    Stored,
    /// Another row was there first and stays.
    Exists(Bytes),
}

/// Outcome of a compare-and-swap that reached the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The new value is durable.
    Swapped,
    /// The row holds something else and stays.
    Differs(Option<Bytes>),
}

/// Rows in order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Key and value.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The key to continue after; absent on the last page.
    pub next: Option<Bytes>,
}

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `embedded` or `postgres`.
    pub engine: &'static str,
    /// Requests may come: for an engine of this member alone as long as it is durable, for one that
    /// members share from the first time on.
    pub ready: bool,
    /// What is acknowledged survives a crash, and the last look or write worked.
    pub durable: bool,
    /// Why it is not durable, one sentence with what to do.
    pub error: Option<String>,
    /// Settings of the server on which that rests; absent for the embedded engine.
    pub durability: Option<Durability>,
}

/// How an engine uses the connections to its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those with a statement, or that are being opened.
    pub in_use: usize,
    /// Open ones that wait for a statement.
    pub idle: usize,
    /// Statements that got none, since the start.
    pub acquire_failures: u64,
}

/// Why the store could not answer. A missing row is no error of an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store refuses this process. Retrying helps once somebody gives access back.
    #[error("the store denies access: {0}")]
    Denied(String),
    /// What was read is not what was written.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// The store cannot be reached or cannot write.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// An engine. A write is answered only when it is durable.
pub trait Store: Send + Sync {
    /// Connections to a server; `None` for an engine without one.
    fn connections(&self) -> Option<Connections> {
        None
    }
    /// Reads one row.
    fn get(&self, table: Table, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;
    /// Writes a row unless one with its key exists.
    fn put_if_absent(&self, table: Table, row: Row) -> BoxFuture<'_, Result<Put, StoreError>>;
    /// Writes a row if the old value (or its absence) is as expected.
    fn compare_and_swap(
        &self,
        table: Table,
        expected: Option<Bytes>,
        row: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>>;
    /// Rows of a keyspace after `after`, at most `rows_max`.
    fn list(
        &self,
        table: Table,
        keyspace: String,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>>;
    /// Rows of a whole table after `after`, at most `rows_max`; for backups.
    fn scan(
        &self,
        table: Table,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>>;
}

/// Typed access to an engine. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
    /// Rows that lists left out because they do not decode.
    skipped: Counter,
}

impl Records {
    /// Wraps an engine.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, skipped: Counter::default() }
    }

    /// Counts rows that lists leave out in `skipped`.
    #[must_use]
    pub fn counting(self, skipped: Counter) -> Self {
        Self { skipped, ..self }
    }

    /// The key's record, or `None` if it was never made here.
    pub async fn key(&self, key_id: [u8; 16]) -> Result<Option<KeyRecord>, StoreError> {
        let bytes = self.store.get(Table::Key, Bytes::copy_from_slice(&key_id)).await?;
        bytes.map(|bytes| decode_key(&key_id, &bytes)).transpose()
    }

    /// Stores a key unless its id is taken; then gives back the record that is there.
    pub async fn put_key(&self, record: &KeyRecord) -> Result<Option<KeyRecord>, StoreError> {
        let row = Row {
            keyspace: record.keyspace.clone(),
            key: Bytes::copy_from_slice(&record.key_id),
            value: record.encode().into(),
        };
        match self.store.put_if_absent(Table::Key, row).await? {
            Put::Stored => Ok(None),
            Put::Exists(bytes) => decode_key(&record.key_id, &bytes).map(Some),
        }
    }

    /// Puts `new` in the place of `old`. `false`: the record is another one by now, and stays.
    pub async fn swap_key(&self, old: &KeyRecord, new: &KeyRecord) -> Result<bool, StoreError> {
        let row = Row {
            keyspace: new.keyspace.clone(),
            key: Bytes::copy_from_slice(&new.key_id),
            value: new.encode().into(),
        };
        let expected = Some(old.encode().into());
        let swap = self.store.compare_and_swap(Table::Key, expected, row).await?;
        Ok(swap == Swap::Swapped)
    }

    /// Keys of a keyspace in order of their ids. Rows that do not decode are left out and counted.
    pub async fn keys(
        &self,
        keyspace: &str,
        after: Option<[u8; 16]>,
        rows_max: usize,
    ) -> Result<(Vec<KeyRecord>, Option<[u8; 16]>), StoreError> {
        let after = after.map(|id| Bytes::copy_from_slice(&id));
        let page = self.store.list(Table::Key, keyspace.to_owned(), after, rows_max).await?;
        let keys = self.readable(&page, decode_key);
        Ok((keys, page.next.map(|id| fixed(&id)).transpose()?))
    }

    /// The DEK's row.
    pub async fn dek(&self, dek_id: [u8; 16]) -> Result<Option<DekRecord>, StoreError> {
        let bytes = self.store.get(Table::Dek, Bytes::copy_from_slice(&dek_id)).await?;
        bytes.map(|bytes| decode_dek(&dek_id, &bytes)).transpose()
    }

    /// Stores a DEK. The same row may be there already; another one under its id is corruption.
    pub async fn put_dek(&self, record: &DekRecord) -> Result<(), StoreError> {
        let value = Bytes::from(record.encode());
        let row = Row {
            keyspace: record.keyspace.clone(),
            key: Bytes::copy_from_slice(&record.dek_id),
            value: value.clone(),
        };
        self.write_once(Table::Dek, row, &value).await
    }

    /// One page of a keyspace's DEKs. Rows that do not decode are left out and counted.
    pub async fn deks(
        &self,
        keyspace: &str,
        after: Option<[u8; 16]>,
        rows_max: usize,
    ) -> Result<(Vec<DekRecord>, Option<[u8; 16]>), StoreError> {
        let after = after.map(|id| Bytes::copy_from_slice(&id));
        let page = self.store.list(Table::Dek, keyspace.to_owned(), after, rows_max).await?;
        let deks = self.readable(&page, decode_dek);
        Ok((deks, page.next.map(|id| fixed(&id)).transpose()?))
    }

    /// Which DEK seals new keys of `keyspace` for the image with `pcr0`.
    pub async fn current(
        &self,
        keyspace: &str,
        pcr0: &[u8; 48],
    ) -> Result<Option<[u8; 16]>, StoreError> {
        let bytes = self.store.get(Table::Current, current_key(keyspace, pcr0)).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        Ok(Some(CurrentRecord::decode(&bytes).map_err(|e| corrupt("current", &e))?.dek_id))
    }

    /// Names `dek_id` unless another was named first; gives back the one that holds.
    pub async fn elect_current(
        &self,
        keyspace: &str,
        pcr0: &[u8; 48],
        dek_id: [u8; 16],
    ) -> Result<[u8; 16], StoreError> {
        let row = Row {
            keyspace: keyspace.to_owned(),
            key: current_key(keyspace, pcr0),
            value: CurrentRecord { dek_id }.encode().into(),
        };
        match self.store.compare_and_swap(Table::Current, None, row).await? {
            Swap::Swapped => Ok(dek_id),
            Swap::Differs(Some(bytes)) => {
                Ok(CurrentRecord::decode(&bytes).map_err(|e| corrupt("current", &e))?.dek_id)
            }
            Swap::Differs(None) => {
                Err(StoreError::Corrupt("`current` changed and vanished".into()))
            }
        }
    }

    /// An attestation document by its SHA-256.
    pub async fn document(&self, hash: [u8; 32]) -> Result<Option<Bytes>, StoreError> {
        let bytes = self.store.get(Table::Document, Bytes::copy_from_slice(&hash)).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let record = DocumentRecord::decode(&bytes).map_err(|e| corrupt("document", &e))?;
        if sha256(&record.document) != hash {
            return Err(StoreError::Corrupt("a document does not match its hash".into()));
        }
        Ok(Some(record.document))
    }

    /// Stores an attestation document under its SHA-256.
    pub async fn put_document(&self, hash: [u8; 32], document: Bytes) -> Result<(), StoreError> {
        let value = Bytes::from(DocumentRecord { document }.encode());
        let row = Row {
            keyspace: String::new(),
            key: Bytes::copy_from_slice(&hash),
            value: value.clone(),
        };
        self.write_once(Table::Document, row, &value).await
    }

    /// One damaged row must not hide the others. Whoever needs it by its id is told that it is corrupt.
    fn readable<T>(
        &self,
        page: &Page,
        decode: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Vec<T> {
        let read = |(id, bytes): &(Bytes, Bytes)| {
            decode(id, bytes)
                .inspect_err(|error| {
                    self.skipped.inc();
                    tracing::error!(id = const_hex::encode(id), %error, "a row is skipped");
                })
                .ok()
        };
        page.rows.iter().filter_map(read).collect()
    }

    async fn write_once(&self, table: Table, row: Row, value: &Bytes) -> Result<(), StoreError> {
        match self.store.put_if_absent(table, row).await? {
            Put::Stored => Ok(()),
            Put::Exists(bytes) if bytes == value => Ok(()),
            Put::Exists(_) => {
                Err(StoreError::Corrupt(format!("{table:?}: another row has this id")))
            }
        }
    }
}

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

fn current_key(keyspace: &str, pcr0: &[u8; 48]) -> Bytes {
    [keyspace.as_bytes(), pcr0].concat().into()
}

fn corrupt(what: &str, error: &RecordError) -> StoreError {
    StoreError::Corrupt(format!("{what}: {error}"))
}

fn fixed(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt("an id is not 16 bytes long".into()))
}

fn decode_key(key_id: &[u8], bytes: &[u8]) -> Result<KeyRecord, StoreError> {
    let record = KeyRecord::decode(bytes).map_err(|e| corrupt("key", &e))?;
    if record.key_id != key_id {
        return Err(StoreError::Corrupt("a key record stands under another id".into()));
    }
    Ok(record)
}

fn decode_dek(dek_id: &[u8], bytes: &[u8]) -> Result<DekRecord, StoreError> {
    let record = DekRecord::decode(bytes).map_err(|e| corrupt("dek", &e))?;
    if record.dek_id != dek_id {
        return Err(StoreError::Corrupt("a DEK row stands under another id".into()));
    }
    Ok(record)
}
