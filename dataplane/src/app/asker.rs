//! On whose behalf something is done, and the line that it leaves in the audit.

use std::fmt::Write;
use std::sync::Arc;

use sigil_enclave_client::KeyId;

use crate::access::{Caller, Verb};
use crate::audit::{AuditLog, Entry};
use crate::error::Error;
use crate::store::sha256;

/// Bytes of a hash that are kept: enough that nobody finds another digest with it.
const DIGEST_HASH_BYTES: usize = 16;

/// Who asks, in which request.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// With its rights.
    pub(crate) caller: Caller,
    /// As the answer has it.
    pub(crate) request_id: Arc<str>,
}

/// The audit of one request: written when it ends, also if it ends because nobody waits for it any longer.
pub(super) struct Audited {
    log: AuditLog,
    asker: Asker,
    verb: Verb,
    keyspace: Option<Arc<str>>,
    key_id: Option<KeyId>,
    digest: Option<[u8; 32]>,
    /// False once written.
    is_due: bool,
}

// === impl Audited ===

impl Audited {
    /// Begins; nothing is written yet.
    pub(super) fn begin(log: &AuditLog, asker: &Asker, verb: Verb) -> Self {
        Self {
            log: log.clone(),
            asker: asker.clone(),
            verb,
            keyspace: None,
            key_id: None,
            digest: None,
            is_due: true,
        }
    }

    /// Who asks.
    pub(super) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Which key it is about.
    pub(super) fn key(mut self, key_id: KeyId) -> Self {
        self.key_id = Some(key_id);
        self
    }

    /// What is to be signed.
    pub(super) fn digest(mut self, digest: [u8; 32]) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Where the key lives, and whether the caller may do this there.
    pub(super) fn may(&mut self, keyspace: &Arc<str>) -> Result<(), Error> {
        self.keyspace = Some(Arc::clone(keyspace));
        self.asker.caller.may(self.verb, keyspace)
    }

    /// The key that was made.
    pub(super) fn made(&mut self, key_id: KeyId) {
        self.key_id = Some(key_id);
    }

    /// It ended with this.
    pub(super) fn end<T>(mut self, result: &Result<T, Error>) {
        self.is_due = false;
        match result {
            Ok(_) => self.write("OK", None),
            Err(error) => self.write(error.code.row().name, error.unlock_request_id.as_deref()),
        }
    }

    fn write(&self, outcome: &'static str, unlock_request_id: Option<&str>) {
        if !self.log.is_on() {
            return;
        }
        let hash = self.digest.map(|digest| sha256(&digest));
        let hash = hash.as_ref().and_then(|hash| hash.first_chunk::<DIGEST_HASH_BYTES>());
        let mut hex = const_hex::Buffer::<DIGEST_HASH_BYTES>::new();
        let digest_hash = hash.map(|hash| hex.format(hash) as &str);
        let mut id = String::new();
        if let Some(key_id) = self.key_id {
            // Writing to a String cannot fail.
            let _ = write!(id, "{key_id}");
        }
        self.log.request(&Entry {
            request_id: &self.asker.request_id,
            caller: self.asker.caller.name(),
            verb: self.verb.as_str(),
            keyspace: self.keyspace.as_deref(),
            key_id: self.key_id.map(|_| id.as_str()),
            digest_hash,
            outcome,
            unlock_request_id,
        });
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if self.is_due {
            self.write("CUT", None);
        }
    }
}
