//! The quarantine as the pools of all workers share it: one number that every request reads, the rest
//! only after an enclave was lost with requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Value, json};
use sigil_enclave_protocol::handshake::BootId;
use sigil_enclave_protocol::v1::{ErrorCode, SignItem, SignResult};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::quarantine::{Event, Fingerprint, Quarantine, Verdict};

/// Requests that may have ended an enclave.
#[derive(Debug)]
pub(super) struct Suspects {
    known: AtomicUsize,
    quarantine: Mutex<Quarantine>,
    /// Held by the one suspect that is tried: two at once would accuse each other.
    pub(super) turn: Arc<Semaphore>,
}

/// Names the request of a caller. The blob is left out: it comes and goes with what the enclave holds.
pub(super) fn fingerprint(caller: &str, item: &SignItem) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    for part in [caller.as_bytes(), item.keyspace.as_bytes(), &item.key_id, &item.digest] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut name = Fingerprint::default();
    name.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    name
}

/// Whether the enclave has done with the request: what asks for a blob, an unlock or patience is asked
/// again, and the same request may still be the one that ends it.
pub(super) fn settles(result: &SignResult) -> bool {
    use ErrorCode as E;
    !matches!(
        E::try_from(result.error),
        Ok(E::BlobRequired
            | E::UnlockRequired
            | E::RetryLater
            | E::Overloaded
            | E::Draining
            | E::RngUnhealthy)
    )
}

// === impl Suspects ===

impl Default for Suspects {
    fn default() -> Self {
        Self {
            known: AtomicUsize::new(0),
            quarantine: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Suspects {
    /// True while nobody is suspected: one read of memory that seldom changes.
    pub(super) fn is_empty(&self) -> bool {
        self.known.load(Ordering::Relaxed) == 0
    }

    pub(super) fn asked(&self, which: Fingerprint, boot: Option<BootId>) -> Verdict {
        self.step(which, Event::Asked(boot))
    }

    pub(super) fn lost(&self, which: Fingerprint, boot: BootId) {
        self.step(which, Event::Lost(boot));
    }

    pub(super) fn settled(&self, which: Fingerprint) {
        self.step(which, Event::Settled);
    }

    /// For `/debug/status`: how many, never which.
    pub(super) fn debug(&self) -> Value {
        let quarantine = self.lock();
        json!({ "known": quarantine.len(), "refused": quarantine.guilty() })
    }

    fn step(&self, which: Fingerprint, event: Event) -> Verdict {
        let mut quarantine = self.lock();
        let refused = quarantine.guilty();
        let verdict = quarantine.step(which, event, Instant::now());
        if quarantine.guilty() > refused {
            let request = const_hex::encode(which);
            tracing::error!(request, "two enclaves ended with this request; it is refused");
        }
        self.known.store(quarantine.len(), Ordering::Relaxed);
        verdict
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Quarantine> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_caller_keyspace_key_and_digest() {
        let item = |keyspace: &str, key: u8, digest: u8| SignItem {
            keyspace: keyspace.to_owned(),
            key_id: vec![key; 16].into(),
            digest: vec![digest; 32].into(),
            ..SignItem::default()
        };
        let name = fingerprint("a", &item("k", 1, 2));
        for other in [
            fingerprint("b", &item("k", 1, 2)),
            fingerprint("a", &item("l", 1, 2)),
            fingerprint("a", &item("k", 3, 2)),
            fingerprint("a", &item("k", 1, 3)),
            fingerprint("ak", &item("", 1, 2)),
        ] {
            assert_ne!(name, other);
        }
        let with_blob = SignItem { blob: vec![1].into(), tag: 9, ..item("k", 1, 2) };
        assert_eq!(name, fingerprint("a", &with_blob));
    }

    #[test]
    fn only_a_last_answer_settles() {
        let answer = |code: ErrorCode| SignResult { error: code.into(), ..SignResult::default() };
        for code in [ErrorCode::Ok, ErrorCode::InvalidKey, ErrorCode::Internal] {
            assert!(settles(&answer(code)), "{code:?}");
        }
        for code in [ErrorCode::BlobRequired, ErrorCode::UnlockRequired, ErrorCode::Overloaded] {
            assert!(!settles(&answer(code)), "{code:?}");
        }
    }
}
