//! `ForceRefresh`: an operator has the enclave open a key again now, whatever its limits say (row S4d).

use bytes::Bytes;
use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::v1::{ErrorCode, ForceRefreshRequest};
use tokio::time::Instant;

use super::model::{DEFAULT_KEYSPACE, key_not_found};
use super::{App, checked_key_id, checked_keyspace, sign};
use crate::error::{Code, Error};
use crate::router::call_error;
use crate::store::KeyRecord;

/// A key to open again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefreshRequest {
    pub(crate) keyspace: String,
    pub(crate) key_id: KeyId,
}

/// A key that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refreshed {
    /// The enclave held it already; if not, its blob came from the store.
    pub(crate) was_cached: bool,
}

// === impl RefreshRequest ===

impl RefreshRequest {
    /// Checks both; unlike for applications, the keyspace must be named.
    pub(crate) fn checked(keyspace: String, key_id: &str) -> Result<Self, Error> {
        if keyspace.is_empty() {
            let detail = format!("keyspace is empty; the usual one is `{DEFAULT_KEYSPACE}`");
            return Err(Error::invalid("keyspace", detail));
        }
        Ok(Self { keyspace: checked_keyspace(keyspace)?, key_id: checked_key_id(key_id)? })
    }
}

// === impl App ===

impl App {
    /// Opens the key again. One that the enclave does not hold is activated first, once.
    pub(crate) async fn refresh(&self, request: &RefreshRequest) -> Result<Refreshed, Error> {
        let RefreshRequest { keyspace, key_id } = request;
        let record = self.records.key(key_id.0).await?.ok_or_else(|| {
            let error = key_not_found(*key_id);
            let detail =
                format!("{}; GET /keys?keyspace={keyspace} lists those that are", error.detail);
            Error { detail: detail.into(), ..error }
        })?;
        if record.keyspace != *keyspace {
            let detail = format!(
                "the key {key_id} is not in the keyspace `{keyspace}`; GET /keys/{key_id} names its own"
            );
            return Err(Error {
                field: Some("keyspace".into()),
                ..Error::new(Code::KeyNotFound, detail)
            });
        }
        let request = ForceRefreshRequest {
            keyspace: record.keyspace.clone(),
            key_id: Bytes::copy_from_slice(&record.key_id),
        };
        let mut client = self.router.client()?;
        let asked = Instant::now();
        let reply = client.force_refresh(request.clone()).await;
        let mut reply = reply.map_err(|status| call_error(&status))?.into_inner();
        let was_cached = reply.error != i32::from(ErrorCode::BlobRequired);
        if !was_cached {
            self.activate(&record).await?;
            let again = client.force_refresh(request).await;
            reply = again.map_err(|status| call_error(&status))?.into_inner();
        }
        self.refreshed(&record, reply.error, asked)?;
        tracing::info!(keyspace, %key_id, was_cached, "key refreshed by an operator");
        Ok(Refreshed { was_cached })
    }

    fn refreshed(&self, record: &KeyRecord, code: i32, asked: Instant) -> Result<(), Error> {
        match ErrorCode::try_from(code) {
            Ok(ErrorCode::Ok) => Ok(()),
            Ok(ErrorCode::UnlockRequired) => Err(self.dek_locked(record, asked)),
            Ok(ErrorCode::BlobRequired) => Err(Error::new(
                Code::RetryLater,
                "the enclave dropped the key while it was being refreshed",
            )),
            _ => Err(sign::refused(&record.keyspace, KeyId(record.key_id), code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fields_are_checked_and_named() {
        let id = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let refused = |keyspace: &str, id: &str| {
            let error = RefreshRequest::checked(keyspace.to_owned(), id).unwrap_err();
            assert_eq!(error.status(), 400);
            error.field.unwrap()
        };
        assert_eq!(refused("", id), "keyspace");
        assert_eq!(refused("UPPER", id), "keyspace");
        assert_eq!(refused("default", "k1"), "keyId");
        assert_eq!(refused("default", &id.to_uppercase()), "keyId");
        let good = RefreshRequest::checked("payments".to_owned(), id).unwrap();
        assert_eq!((good.keyspace.as_str(), good.key_id.to_string().as_str()), ("payments", id));
    }
}
