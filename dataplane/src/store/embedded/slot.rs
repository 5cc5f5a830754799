//! The open database. redb refuses to go on after a failed write, and a disk that was full is not full
//! for ever: the file is opened again then, with every check of the start but the making of a new one.

use std::sync::{PoisonError, RwLock};

use redb::Database;

use super::super::StoreError;
use super::{OpenError, classify};

type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

/// A database that can be opened again. Readers share it; opening waits for them.
pub(super) struct Slot {
    database: RwLock<Option<Database>>,
    open_again: Opener,
}

impl Slot {
    pub(super) fn new(
        database: Database,
        open_again: impl Fn() -> Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Self {
        Self { database: RwLock::new(Some(database)), open_again: Box::new(open_again) }
    }

    /// Runs `work` on the open database.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || StoreError::Unavailable("the file could not be opened again".to_owned());
        work(slot.as_ref().ok_or_else(closed)?).map_err(|error| classify(&error))
    }

    /// Closes and opens the file. Without success the slot stays closed until the next call,
    /// which the writer makes every second until a commit works.
    pub(super) fn reopen(&self) {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // The file's lock is exclusive: the old one has to go first.
        *slot = None;
        match (self.open_again)() {
            Ok(database) => *slot = Some(database),
            Err(error) => tracing::error!(%error, "store not opened again"),
        }
    }
}
