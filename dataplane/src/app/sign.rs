//! Phases of `sign`.

use std::sync::Arc;

use bytes::Bytes;
use k256::ecdsa::Signature;
use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::v1::{ErrorCode, SignItem, SignResult};
use tokio::time::Instant;

use super::model::key_not_found;
use super::{App, SignRequest, Signed};
use crate::error::{Code, Error};
use crate::metrics::{Method, Phase};
use crate::store::KeyRecord;
use crate::unlock::Target;

/// Where a key lives.
pub(super) struct Located {
    pub(super) keyspace: Arc<str>,
    /// Its blob, if the store was read to find the keyspace.
    pub(super) blob: Option<Bytes>,
}

pub(super) fn wants_blob(answer: &SignResult) -> bool {
    answer.error == i32::from(ErrorCode::BlobRequired)
}

impl App {
    /// The key's keyspace if it is remembered.
    pub(super) fn known_keyspace(&self, key_id: KeyId) -> Option<Arc<str>> {
        self.directory.get(key_id)
    }

    /// The key's keyspace, from memory or the store.
    pub(super) async fn locate(&self, key_id: KeyId) -> Result<Located, Error> {
        match self.known_keyspace(key_id) {
            Some(keyspace) => Ok(Located { keyspace, blob: None }),
            None => Box::pin(self.locate_in_store(key_id)).await,
        }
    }

    async fn locate_in_store(&self, key_id: KeyId) -> Result<Located, Error> {
        let started = Instant::now();
        let record = self.records.key(key_id.0).await?.ok_or_else(|| key_not_found(key_id))?;
        self.metrics.phase(Method::Sign, Phase::Store, started.elapsed());
        let keyspace: Arc<str> = record.keyspace.into();
        self.directory.insert(key_id, Arc::clone(&keyspace));
        Ok(Located { keyspace, blob: Some(record.blob) })
    }

    /// The enclave's answer, and when it was asked.
    pub(super) async fn ask(
        &self,
        located: &Located,
        request: &SignRequest,
        blob: Bytes,
    ) -> Result<(SignResult, Instant), Error> {
        let asked = Instant::now();
        let item = || item(located, request, blob.clone());
        let answer = self.router.sign(item, asked, &self.metrics).await;
        self.metrics.phase(Method::Sign, Phase::Enclave, asked.elapsed());
        Ok((answer.map_err(|error| error.after(asked))?, asked))
    }

    /// From the enclave's answer to the caller's. A key that the enclave does not hold is sent along
    /// once.
    pub(super) async fn finish(
        &self,
        located: &Located,
        request: &SignRequest,
        (answer, asked): (SignResult, Instant),
    ) -> Result<Signed, Error> {
        if wants_blob(&answer) {
            return Box::pin(self.sign_with_blob(located, request)).await;
        }
        self.signed(located, request, (&answer, asked))
    }

    async fn sign_with_blob(
        &self,
        located: &Located,
        request: &SignRequest,
    ) -> Result<Signed, Error> {
        let blob = self.blob(located, request.key_id).await?;
        let (answer, asked) = self.ask(located, request, blob).await?;
        self.signed(located, request, (&answer, asked))
    }

    /// The key's blob, for an enclave that does not hold the key.
    pub(super) async fn blob(&self, located: &Located, key_id: KeyId) -> Result<Bytes, Error> {
        if let Some(blob) = &located.blob {
            return Ok(blob.clone());
        }
        let started = Instant::now();
        let record = self.records.key(key_id.0).await?.ok_or_else(|| key_not_found(key_id))?;
        self.metrics.phase(Method::Sign, Phase::Store, started.elapsed());
        Ok(record.blob)
    }

    /// What the answer means to the caller.
    pub(super) fn signed(
        &self,
        located: &Located,
        request: &SignRequest,
        (answer, asked): (&SignResult, Instant),
    ) -> Result<Signed, Error> {
        let result = match ErrorCode::try_from(answer.error) {
            Ok(ErrorCode::Ok) => return read_signature(request, answer),
            Ok(ErrorCode::UnlockRequired) => {
                let target = answer.dek_id.as_ref().try_into().map_or(Target::Sealing, Target::Dek);
                Err(self.unlock_required(&located.keyspace, target, Some(request.key_id), asked))
            }
            Ok(ErrorCode::BlobRequired) => Err(Error::new(
                Code::RetryLater,
                "the enclave dropped the key while it was being used",
            )),
            _ => Err(refused(&located.keyspace, request.key_id, answer.error)),
        };
        result.map_err(|error: Error| error.after(asked))
    }

    /// The DEK of this key is locked, says the enclave, which was asked at `asked`.
    pub(super) fn dek_locked(&self, record: &KeyRecord, asked: Instant) -> Error {
        let (target, key_id) = (Target::Dek(record.dek_id), Some(KeyId(record.key_id)));
        self.unlock_required(&record.keyspace, target, key_id, asked)
    }

    /// Queues the unlock and says so (row U1). A key whose DEK is not unlocked is INVALID in the
    /// enclave's cache, which row S4d wants logged; while KMS is away that is every request.
    pub(super) fn unlock_required(
        &self,
        keyspace: &str,
        target: Target,
        key_id: Option<KeyId>,
        asked: Instant,
    ) -> Error {
        let unlock_request_id =
            self.unlocker.demand(keyspace, target, key_id, asked).map(|id| id.to_string());
        if let Some(key_id) = key_id
            && let Some(left_out) = self.invalid.admit(Instant::now())
        {
            let unlock_request_id = unlock_request_id.as_deref();
            let reason = "dek_locked";
            tracing::warn!(keyspace, %key_id, reason, unlock_request_id, left_out, "key cache invalid");
        }
        let detail = if unlock_request_id.is_some() {
            "the keyspace is being unlocked; send the same request again after the hint"
        } else {
            "the keyspace is locked and the unlock queue is full; send the request again"
        };
        Error {
            retry_after_ms: Some(self.unlocker.retry_hint_ms()),
            unlock_request_id,
            ..Error::new(Code::UnlockRequired, detail)
        }
    }
}

/// What the enclave's refusal means to the caller, with a line in the log for those that row S4d
/// names: a key that was not opened in time, and a sealed key that does not open. The third, a locked
/// DEK, is in [`App::unlock_required`].
pub(super) fn refused(keyspace: &str, key_id: KeyId, code: i32) -> Error {
    match ErrorCode::try_from(code) {
        Ok(ErrorCode::RetryLater) => {
            tracing::warn!(keyspace, %key_id, "refresh wait timeout");
        }
        Ok(ErrorCode::InvalidKey) => {
            tracing::warn!(keyspace, %key_id, reason = "blob_refused", "key cache invalid");
        }
        _ => {}
    }
    Error::from_enclave(code)
}

/// The request as the enclave reads it; the stream sets the tag.
pub(super) fn item(located: &Located, request: &SignRequest, blob: Bytes) -> SignItem {
    SignItem {
        tag: 0,
        keyspace: located.keyspace.to_string(),
        key_id: Bytes::copy_from_slice(&request.key_id.0),
        digest: Bytes::copy_from_slice(&request.digest),
        blob,
        authorization: Bytes::new(),
    }
}

fn read_signature(request: &SignRequest, answer: &SignResult) -> Result<Signed, Error> {
    let wrong = || Error::internal("the enclave's signature is malformed");
    let signature: [u8; 64] = answer.signature.as_ref().try_into().map_err(|_| wrong())?;
    let der = if request.der {
        let parsed = Signature::from_slice(&signature).map_err(|_| wrong())?;
        Some(parsed.to_der().as_bytes().to_vec())
    } else {
        None
    };
    Ok(Signed {
        key_id: request.key_id,
        public_key: answer.public_key.as_ref().try_into().map_err(|_| wrong())?,
        signature,
        recovery_id: u8::try_from(answer.recovery_id).map_err(|_| wrong())?,
        der,
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    /// What is logged meanwhile.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_messages_that_operators_look_for_are_logged_by_their_names() {
        let key_id = KeyId([7; 16]);
        for (code, message, answer) in [
            (ErrorCode::RetryLater, "refresh wait timeout", Code::RetryLater),
            (ErrorCode::InvalidKey, "key cache invalid", Code::InvalidKey),
        ] {
            let lines = logged(|| {
                assert_eq!(refused("default", key_id, code.into()).code, answer);
            });
            let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
            assert_eq!(line["fields"]["message"], message);
            assert_eq!(line["fields"]["keyspace"], "default");
            assert_eq!(line["fields"]["key_id"], key_id.to_string());
        }
        let quiet = logged(|| {
            assert_eq!(
                refused("default", key_id, ErrorCode::Overloaded.into()).code,
                Code::Overloaded
            );
        });
        assert_eq!(quiet, "");
    }
}
