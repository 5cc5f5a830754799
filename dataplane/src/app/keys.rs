//! What is known of keys, and proofs about them.

use bytes::Bytes;
use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::v1::{ErrorCode, ProveRequest};
use tokio::time::Instant;

use super::model::key_not_found;
use super::{App, Asker, Audited, Birth, KeyInfo, KeyPage};
use crate::access::Verb;
use crate::admission::Slot;
use crate::error::{Code, Error};
use crate::router::call_error;
use crate::store::{KeyRecord, sha256};

/// Keys of one page: 100 answers fit a few TCP segments.
const KEYS_PAGE_ROWS: usize = 100;

impl App {
    /// One key.
    pub(crate) async fn key(&self, asker: &Asker, key_id: KeyId) -> Result<KeyInfo, Error> {
        let mut audited = Audited::begin(&self.audit, asker, Verb::Read).key(key_id);
        let result = self.record(&mut audited, key_id).await.and_then(|(record, _)| info(&record));
        audited.end(&result);
        result
    }

    /// The key's record for a caller that may look at it, and a place in flight.
    async fn record(
        &self,
        audited: &mut Audited,
        key_id: KeyId,
    ) -> Result<(KeyRecord, Slot), Error> {
        let slot = self.guards.admission.enter().await?;
        let record = self.records.key(key_id.0).await?.ok_or_else(|| key_not_found(key_id))?;
        audited.may(&record.keyspace.as_str().into())?;
        Ok((record, slot))
    }

    /// Keys of a keyspace in order of their ids.
    pub(crate) async fn keys(
        &self,
        asker: &Asker,
        keyspace: &str,
        after: Option<KeyId>,
    ) -> Result<KeyPage, Error> {
        let mut audited = Audited::begin(&self.audit, asker, Verb::List);
        let result = self.page(&mut audited, keyspace, after).await;
        audited.end(&result);
        result
    }

    async fn page(
        &self,
        audited: &mut Audited,
        keyspace: &str,
        after: Option<KeyId>,
    ) -> Result<KeyPage, Error> {
        let _slot = self.guards.admission.enter().await?;
        audited.may(&keyspace.into())?;
        let (records, next) =
            self.records.keys(keyspace, after.map(|id| id.0), KEYS_PAGE_ROWS).await?;
        let keys = records.iter().map(info).collect::<Result<_, _>>()?;
        Ok(KeyPage { keys, next: next.map(KeyId) })
    }

    /// The stored birth statement, or with a nonce a fresh possession statement.
    pub(crate) async fn attestation(
        &self,
        asker: &Asker,
        key_id: KeyId,
        nonce: Bytes,
    ) -> Result<Birth, Error> {
        let mut audited = Audited::begin(&self.audit, asker, Verb::Read).key(key_id);
        let result = self.proof(&mut audited, key_id, nonce).await;
        audited.end(&result);
        result
    }

    async fn proof(
        &self,
        audited: &mut Audited,
        key_id: KeyId,
        nonce: Bytes,
    ) -> Result<Birth, Error> {
        let (record, _slot) = self.record(audited, key_id).await?;
        if !nonce.is_empty() {
            return self.possession(&record, nonce).await;
        }
        let document = self.records.document(record.document_hash).await?.ok_or_else(|| {
            Error::new(Code::InvalidKey, "the document of the key's birth is not in the store")
        })?;
        Ok(Birth {
            statement: record.statement,
            signature: record.signature,
            document_hash: record.document_hash,
            document,
        })
    }

    /// The enclave proves cached keys only: one that it does not hold is activated first, once.
    pub(super) async fn possession(
        &self,
        record: &KeyRecord,
        nonce: Bytes,
    ) -> Result<Birth, Error> {
        let request = ProveRequest {
            keyspace: record.keyspace.clone(),
            key_id: Bytes::copy_from_slice(&record.key_id),
            nonce,
        };
        let mut client = self.router.client()?;
        let asked = Instant::now();
        let mut reply =
            client.prove(request.clone()).await.map_err(|status| call_error(&status))?.into_inner();
        if reply.error == i32::from(ErrorCode::BlobRequired) {
            self.activate(record).await?;
            reply = client.prove(request).await.map_err(|status| call_error(&status))?.into_inner();
        }
        match ErrorCode::try_from(reply.error) {
            Ok(ErrorCode::Ok) => {}
            Ok(ErrorCode::UnlockRequired) => return Err(self.dek_locked(record, asked)),
            _ => return Err(Error::from_enclave(reply.error)),
        }
        let proof = reply.possession.ok_or_else(|| Error::internal("prove without a statement"))?;
        Ok(Birth {
            statement: proof.statement,
            signature: proof.signature,
            document_hash: sha256(&proof.document),
            document: proof.document,
        })
    }
}

fn info(record: &KeyRecord) -> Result<KeyInfo, Error> {
    Ok(KeyInfo {
        key_id: KeyId(record.key_id),
        keyspace: record.keyspace.clone(),
        public_key: record.public_key().map_err(|error| Error::internal(error.to_string()))?,
        created_ms: record.created_ms,
    })
}
