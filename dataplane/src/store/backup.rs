//! A backup: every row of a store as lines of JSON, with a checksum at the end. It says nothing of the
//! engine, so it also moves keys from one to another. What is in it is sealed. Format: `docs/formats.md`,
//! "Backups of the store"; reasons: decision 25.

use std::io::{self, BufRead, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::record::{CurrentRecord, DocumentRecord};
use super::{Put, Row, Store, StoreError, Table, decode_dek, decode_key, sha256};

/// First words of every backup.
const FORMAT: &str = "sigil-store-backup";
const VERSION: u32 = 1;
/// Rows that are read at once, and written at once: the embedded engine commits them together.
const ROWS_AT_ONCE: usize = 128;
/// Bytes of a line: a document of 16 KiB, twice over.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a measurement.
const PCR0_BYTES: usize = 48;

/// Tables in the order of a backup. What refers to a row stands before it: a row that is made while the
/// backup runs is whole in it or absent.
const TABLES: [(Table, &str); 4] = [
    (Table::Key, "key"),
    (Table::Current, "current"),
    (Table::Dek, "dek"),
    (Table::Document, "document"),
];

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Rows of the backup.
    pub rows: u64,
    /// Of those, keys.
    pub keys: u64,
    /// Rows that were there already, as in the backup.
    pub same: u64,
    /// Rows that were there with another value, and stay.
    pub kept: u64,
    /// Rows of the store that do not decode and were left out.
    pub damaged: u64,
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a whole backup.
    #[error("line {line}: {why}; nothing was restored")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// A row of the store does not decode.
    #[error(
        "{table} {key}: {why}; restore it from an earlier backup, or leave it out with --skip-damaged"
    )]
    Damaged {
        /// Its table.
        table: &'static str,
        /// Its key, hex.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The store has other values.
    #[error(
        "{count} row(s) are in the store with another value, the first is {first}; nothing was restored. \
         Restore into an empty store, or let what is there stay with --keep-existing"
    )]
    Conflict {
        /// How many.
        count: u64,
        /// Table and key of the first.
        first: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    table: String,
    /// Hex.
    key: String,
    /// Base64.
    value: String,
}

/// Checksum of every byte before its line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    rows: u64,
    sha256: String,
}

/// Writes every row of `store` to `out`.
///
/// # Errors
/// The store, the file, or a row that does not decode unless `skip_damaged`.
pub async fn backup(
    store: &dyn Store,
    out: &mut impl Write,
    skip_damaged: bool,
) -> Result<Outcome, BackupError> {
    let mut outcome = Outcome::default();
    let mut hash = Context::new(&SHA256);
    write_line(out, &mut hash, &Head { format: FORMAT.to_owned(), version: VERSION })?;
    for (table, name) in TABLES {
        let mut after = None;
        loop {
            let page = store.scan(table, after, ROWS_AT_ONCE).await?;
            for (key, value) in page.rows {
                if let Err(error) = checked(table, &key, &value) {
                    let (key, why) = (const_hex::encode(&key), error.to_string());
                    if !skip_damaged {
                        return Err(BackupError::Damaged { table: name, key, why });
                    }
                    outcome.damaged += 1;
                    continue;
                }
                let (key, value) = (const_hex::encode(&key), STANDARD.encode(&value));
                write_line(out, &mut hash, &Line { table: name.to_owned(), key, value })?;
                outcome.rows += 1;
                outcome.keys += u64::from(table == Table::Key);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    let sha256 = const_hex::encode(hash.clone().finish());
    write_line(out, &mut hash, &Tail { rows: outcome.rows, sha256 })?;
    out.flush()?;
    Ok(outcome)
}

fn write_line(out: &mut impl Write, hash: &mut Context, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    hash.update(&text);
    out.write_all(&text)
}

/// Reads a backup to its end and checks every line, the count and the checksum.
///
/// # Errors
/// The file, or the first thing that is wrong with it.
pub fn verify(file: impl BufRead) -> Result<Outcome, BackupError> {
    let mut outcome = Outcome::default();
    for row in Rows::new(file) {
        let (table, _) = row?;
        outcome.rows += 1;
        outcome.keys += u64::from(table == Table::Key);
    }
    Ok(outcome)
}

/// Puts the rows of a backup into `store`; `open` opens the file from its beginning. The whole backup is
/// verified first, then the store is asked for other values; only then is anything written, and what is
/// referred to before what refers to it. Cut short, it may be run again.
///
/// # Errors
/// The file, the store, or other values in it unless `keep_existing`.
pub async fn restore<R: BufRead>(
    store: &dyn Store,
    open: impl Fn() -> io::Result<R>,
    keep_existing: bool,
) -> Result<Outcome, BackupError> {
    let mut outcome = verify(open()?)?;
    let mut first = None;
    let mut rows = Rows::new(open()?);
    while let Some(batch) = next_batch(&mut rows, |_| true)? {
        compare(store, batch, &mut outcome, &mut first).await?;
    }
    if let (Some(first), false) = (first, keep_existing) {
        return Err(BackupError::Conflict { count: outcome.kept, first });
    }
    for (wanted, _) in TABLES.into_iter().rev() {
        let mut rows = Rows::new(open()?);
        while let Some(batch) = next_batch(&mut rows, |table| table == wanted)? {
            write(store, batch, keep_existing).await?;
        }
    }
    Ok(outcome)
}

type Batch = Vec<(Table, Row)>;

/// The next rows of the tables that are wanted; nothing at the end.
fn next_batch<R: BufRead>(
    rows: &mut Rows<R>,
    wanted: impl Fn(Table) -> bool,
) -> Result<Option<Batch>, BackupError> {
    let matching = |row: &Result<(Table, Row), BackupError>| match row {
        Ok((table, _)) => wanted(*table),
        Err(_) => true,
    };
    let batch: Batch = rows.filter(matching).take(ROWS_AT_ONCE).collect::<Result<_, _>>()?;
    Ok((!batch.is_empty()).then_some(batch))
}

async fn compare(
    store: &dyn Store,
    batch: Batch,
    outcome: &mut Outcome,
    first: &mut Option<String>,
) -> Result<(), BackupError> {
    let asked = batch.iter().map(|(table, row)| store.get(*table, row.key.clone()));
    let found = try_join_all(asked).await?;
    for ((table, row), there) in batch.iter().zip(found) {
        match there {
            Some(there) if there == row.value => outcome.same += 1,
            Some(_) => {
                outcome.kept += 1;
                first.get_or_insert_with(|| told(*table, row));
            }
            None => {}
        }
    }
    Ok(())
}

async fn write(store: &dyn Store, batch: Batch, keep_existing: bool) -> Result<(), BackupError> {
    let written = batch.into_iter().map(|(table, row)| async move {
        let text = told(table, &row);
        let value = row.value.clone();
        match store.put_if_absent(table, row).await? {
            Put::Exists(there) if there != value && !keep_existing => {
                Err(BackupError::Conflict { count: 1, first: text })
            }
            Put::Stored | Put::Exists(_) => Ok(()),
        }
    });
    try_join_all(written).await.map(drop)
}

fn told(table: Table, row: &Row) -> String {
    format!("{} {}", name_of(table), const_hex::encode(&row.key))
}

fn name_of(table: Table) -> &'static str {
    TABLES.iter().find(|(other, _)| *other == table).map_or("", |(_, name)| name)
}

/// The row as engines take it, if it is a record of its table under its own key.
fn checked(table: Table, key: &[u8], value: &Bytes) -> Result<Row, StoreError> {
    let wrong = |why: &str| StoreError::Corrupt(why.to_owned());
    let keyspace = match table {
        Table::Dek => decode_dek(key, value)?.keyspace,
        Table::Key => decode_key(key, value)?.keyspace,
        Table::Current => {
            CurrentRecord::decode(value).map_err(|error| wrong(&error.to_string()))?;
            let name = key.len().checked_sub(PCR0_BYTES).and_then(|length| key.get(..length));
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            name.ok_or_else(|| wrong("its key is no keyspace and PCR0"))?.to_owned()
        }
        Table::Document => {
            let record =
                DocumentRecord::decode(value).map_err(|error| wrong(&error.to_string()))?;
            if sha256(&record.document)[..] != *key {
                return Err(wrong("a document does not match its hash"));
            }
            String::new()
        }
    };
    Ok(Row { keyspace, key: Bytes::copy_from_slice(key), value: value.clone() })
}

/// The rows of a backup, each checked; ends after a checksum that fits, or with an error.
struct Rows<R> {
    file: R,
    hash: Context,
    line: u64,
    read: u64,
    ended: bool,
}

// === impl Rows ===

impl<R: BufRead> Rows<R> {
    fn new(file: R) -> Self {
        Self { file, hash: Context::new(&SHA256), line: 0, read: 0, ended: false }
    }

    fn malformed(&self, why: impl Into<String>) -> BackupError {
        BackupError::Malformed { line: self.line, why: why.into() }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, BackupError> {
        let mut line = Vec::new();
        (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        self.line += 1;
        match line.last() {
            Some(b'\n') => Ok(line),
            Some(_) => Err(self.malformed("the line is cut short or too long")),
            None => Err(self.malformed("the backup ends without its checksum")),
        }
    }

    fn head(&mut self) -> Result<(), BackupError> {
        let line = self.read_line()?;
        let head: Head =
            serde_json::from_slice(&line).map_err(|_| self.malformed("not a backup of a store"))?;
        if head.format != FORMAT {
            return Err(self.malformed("not a backup of a store"));
        }
        if head.version != VERSION {
            return Err(self.malformed(format!(
                "version {} is not one that this program reads ({VERSION})",
                head.version
            )));
        }
        self.hash.update(&line);
        Ok(())
    }

    fn row(&mut self) -> Result<Option<(Table, Row)>, BackupError> {
        if self.line == 0 {
            self.head()?;
        }
        let text = self.read_line()?;
        if let Ok(tail) = serde_json::from_slice::<Tail>(&text) {
            return self.tail(&tail).map(|()| None);
        }
        let line: Line = serde_json::from_slice(&text)
            .map_err(|error| self.malformed(format!("neither a row nor a checksum: {error}")))?;
        self.hash.update(&text);
        self.read += 1;
        let table = TABLES.iter().find(|(_, name)| *name == line.table);
        let (table, _) = table.ok_or_else(|| self.malformed("no table has this name"))?;
        let key = const_hex::decode(&line.key).map_err(|_| self.malformed("key: not hex"))?;
        let value =
            STANDARD.decode(&line.value).map_err(|_| self.malformed("value: not base64"))?;
        let row = checked(*table, &key, &value.into())
            .map_err(|error| self.malformed(error.to_string()))?;
        Ok(Some((*table, row)))
    }

    fn tail(&mut self, tail: &Tail) -> Result<(), BackupError> {
        if tail.rows != self.read {
            let why = format!("{} rows were written and {} are here", tail.rows, self.read);
            return Err(self.malformed(why));
        }
        if tail.sha256 != const_hex::encode(self.hash.clone().finish()) {
            return Err(self.malformed("the checksum is another"));
        }
        if !self.file.fill_buf()?.is_empty() {
            return Err(self.malformed("something follows the checksum"));
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for Rows<R> {
    type Item = Result<(Table, Row), BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

#[cfg(test)]
mod tests;
