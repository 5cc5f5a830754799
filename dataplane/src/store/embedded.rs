//! The embedded engine: one redb file. Writes go through one thread that commits whatever is queued
//! with one fsync and answers only then.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};
use tokio::sync::oneshot;

use super::{Page, Put, Row, Store, StoreError, Swap, Table};

mod slot;
mod writer;

use slot::Slot;
use writer::{Change, Queued};

/// Name of the file in the store's directory.
const FILE: &str = "sigil.redb";
/// What `meta` says about the file.
const FORMAT_NAME: &str = "sigil-store";
const FORMAT_VERSION: u64 = 1;
/// Writes that may wait for a commit; more are refused, since each is a request that waits.
const QUEUE_DEPTH_MAX: usize = 4_096;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The embedded store.
pub struct EmbeddedStore {
    slot: Arc<Slot>,
    queue: Option<mpsc::SyncSender<Queued>>,
    writer: Option<JoinHandle<()>>,
}

/// Why the store does not open. The process must not start without it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or file cannot be used.
    #[error("store {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file is there and is not ours.
    #[error("store {path}: not a store of this program ({reason}); refusing to touch it")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// A newer program wrote the file.
    #[error("store {path}: format {version} is newer than this program reads ({FORMAT_VERSION})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
    /// Another process has it open.
    #[error("store {path}: another process has it open")]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// Opens or makes the store in `directory`; `durable` hears whether the last commit worked,
    /// once at the start and at every change.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        directory: &Path,
        durable: impl Fn(bool) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let path = directory.join(FILE);
        let io = |source| OpenError::Io { path: directory.to_owned(), source };
        prepare_directory(directory).map_err(io)?;
        let fresh = !path.exists();
        let database = open_file(&path, true)?;
        check_format(&database, &path, fresh)?;
        // A name is durable only once its directory is. One that is there already may have been left
        // by a process that died before this line.
        sync_directory(directory).map_err(io)?;
        let again = path.clone();
        let slot = Slot::new(database, move || reopen_file(&again));
        Self::start(slot, durable).map_err(|source| OpenError::Io { path, source })
    }

    fn start(slot: Slot, durable: impl Fn(bool) + Send + 'static) -> io::Result<Self> {
        let slot = Arc::new(slot);
        let (queue, receiver) = mpsc::sync_channel(QUEUE_DEPTH_MAX);
        let for_writer = Arc::clone(&slot);
        durable(true);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(&for_writer, &receiver, &durable))?;
        Ok(Self { slot, queue: Some(queue), writer: Some(writer) })
    }

    async fn write<T>(
        &self,
        change: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Queued,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the writer has ended".to_owned());
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.try_send(change(reply)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => {
                StoreError::Unavailable(format!("{QUEUE_DEPTH_MAX} writes are waiting"))
            }
            mpsc::TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }

    /// Reads may touch the disk, so they leave the caller's runtime thread.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = Arc::clone(&self.slot);
        let cut_short = |_| StoreError::Unavailable("a read was cut short".to_owned());
        tokio::task::spawn_blocking(move || slot.with(work)).await.map_err(cut_short)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // The writer finishes what is queued, then releases the file.
            let _ = writer.join();
        }
    }
}

impl Store for EmbeddedStore {
    fn get(&self, table: Table, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.read(move |database| {
            let rows = database.begin_read()?.open_table(writer::rows(table))?;
            Ok(rows.get(&key[..])?.map(|value| Bytes::copy_from_slice(value.value())))
        }))
    }

    fn put_if_absent(&self, table: Table, row: Row) -> BoxFuture<'_, Result<Put, StoreError>> {
        Box::pin(self.write(move |reply| Queued { table, row, change: Change::Put(reply) }))
    }

    fn compare_and_swap(
        &self,
        table: Table,
        expected: Option<Bytes>,
        row: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>> {
        Box::pin(self.write(move |reply| Queued {
            table,
            row,
            change: Change::Swap(expected, reply),
        }))
    }

    fn list(
        &self,
        table: Table,
        keyspace: String,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.read(move |database| list(database, table, &keyspace, after, rows_max)))
    }

    fn scan(
        &self,
        table: Table,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.read(move |database| scan(database, table, after, rows_max)))
    }
}

fn scan(
    database: &Database,
    table: Table,
    after: Option<Bytes>,
    rows_max: usize,
) -> Result<Page, redb::Error> {
    let rows = database.begin_read()?.open_table(writer::rows(table))?;
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut page = Page::default();
    for row in rows.range::<&[u8]>((start.as_ref().map(|key| &key[..]), Bound::Unbounded))? {
        if page.rows.len() == rows_max {
            page.next = page.rows.last().map(|(key, _)| key.clone());
            break;
        }
        let (key, value) = row?;
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        page.rows.push((copy(key.value()), copy(value.value())));
    }
    Ok(page)
}

fn list(
    database: &Database,
    table: Table,
    keyspace: &str,
    after: Option<Bytes>,
    rows_max: usize,
) -> Result<Page, redb::Error> {
    let transaction = database.begin_read()?;
    let rows = transaction.open_table(writer::rows(table))?;
    let index = transaction.open_table(writer::BY_KEYSPACE)?;
    let prefix = writer::index_key(table, keyspace, &[]);
    let start = after.map_or_else(
        || prefix.clone(),
        // The smallest key after `after`.
        |after| [&writer::index_key(table, keyspace, &after)[..], &[0]].concat(),
    );
    let mut page = Page::default();
    for entry in index.range(&start[..]..)? {
        let (entry, _) = entry?;
        let Some(key) = entry.value().strip_prefix(&prefix[..]) else { break };
        if page.rows.len() == rows_max {
            page.next = page.rows.last().map(|(key, _)| key.clone());
            break;
        }
        if let Some(value) = rows.get(key)? {
            let value = Bytes::copy_from_slice(value.value());
            page.rows.push((Bytes::copy_from_slice(key), value));
        }
    }
    Ok(page)
}

/// Makes what is missing of `directory`, and makes the names on the way to it durable: those that
/// are there already may be as new as the ones made here.
fn prepare_directory(directory: &Path) -> io::Result<()> {
    let made: Vec<_> = directory
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mode = std::fs::metadata(directory)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    }
    for path in made {
        sync_directory(parent(path))?;
    }
    // Our directory may be the work of a start that was cut short. Others' parents may be closed to us.
    match sync_directory(parent(directory)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(directory.to_owned()));
    std::fs::File::open(directory)?.sync_all()
}

/// A store that was open before must be there: nothing is made in its place.
fn reopen_file(path: &Path) -> Result<Database, OpenError> {
    let database = open_file(path, false)?;
    let foreign = |reason: String| OpenError::Foreign { path: path.to_owned(), reason };
    match read_format(&database) {
        Ok(Some(FORMAT_VERSION)) => Ok(database),
        Ok(other) => Err(foreign(format!("format {other:?}"))),
        Err(error) => Err(foreign(error.to_string())),
    }
}

fn open_file(path: &Path, create: bool) -> Result<Database, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    let foreign = |reason: String| OpenError::Foreign { path: path.to_owned(), reason };
    redb::Builder::new().create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_owned() },
        DatabaseError::UpgradeRequired(version) => foreign(format!("redb file format {version}")),
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData =>
        {
            io(source)
        }
        other => foreign(other.to_string()),
    })
}

fn check_format(database: &Database, path: &Path, fresh: bool) -> Result<(), OpenError> {
    let foreign = |reason: String| OpenError::Foreign { path: path.to_owned(), reason };
    let failed = |error: redb::Error| foreign(error.to_string());
    if fresh || is_empty(database).map_err(failed)? {
        return writer::make_tables(database, |meta| {
            meta.insert(FORMAT_NAME, FORMAT_VERSION).map(|_| ())
        })
        .map_err(failed);
    }
    match read_format(database) {
        Ok(Some(FORMAT_VERSION)) => Ok(()),
        Ok(Some(version)) if version > FORMAT_VERSION => {
            Err(OpenError::Newer { path: path.to_owned(), version })
        }
        Ok(Some(version)) => Err(foreign(format!("store format {version}"))),
        Ok(None) => Err(foreign("no format entry".to_owned())),
        Err(error) => Err(failed(error)),
    }
}

/// True for a file whose making was cut short before its first commit.
fn is_empty(database: &Database) -> Result<bool, redb::Error> {
    Ok(database.begin_read()?.list_tables()?.next().is_none())
}

fn read_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(FORMAT_NAME)?.map(|version| version.value()))
}

fn classify(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            StoreError::Denied(source.to_string())
        }
        redb::Error::Corrupted(what) => StoreError::Corrupt(what.clone()),
        redb::Error::TableTypeMismatch { table, .. } | redb::Error::TableDoesNotExist(table) => {
            StoreError::Corrupt(format!("table {table}"))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
