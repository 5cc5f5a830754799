//! Phases of `create`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::v1::{self, ErrorCode};
use tokio::time::Instant;

use super::{App, Asker, Birth, CreateRequest, Created, now_ms};
use crate::attest::{BirthError, Expected};
use crate::error::{Code, Error};
use crate::failpoint;
use crate::metrics::{Method, Phase};
use crate::router::call_error;
use crate::store::{KeyRecord, sha256};
use crate::unlock::Target;

/// DEKs and documents remembered as durable. A DEK lives an hour and a document five minutes, so the
/// bound is met hours apart; forgetting everything then costs one read or write each.
const REMEMBERED_MAX: usize = 64;

/// A checked create with its key id.
pub(super) struct Plan {
    pub(super) key_id: KeyId,
    pub(super) keyspace: String,
    challenge: Bytes,
    /// Empty unless the create is idempotent.
    parameters_hash: Bytes,
}

/// What the enclave made. Nothing of it is kept there.
pub(super) struct Sealed {
    reply: v1::CreateReply,
    birth: v1::Statement,
    document_hash: [u8; 32],
}

/// Write-once rows that are known to be durable, so that they are not read or written again.
#[derive(Default)]
pub(super) struct Stored {
    deks: Mutex<HashMap<[u8; 16], Arc<WrappedDek>>>,
    documents: Mutex<HashSet<[u8; 32]>>,
}

struct WrappedDek {
    wrapped: Bytes,
    kms_key_arn: String,
}

impl App {
    /// Chooses the key id, which the ring places: random, or from the idempotency key.
    pub(super) fn place_key(asker: &Asker, request: &CreateRequest) -> Result<KeyId, Error> {
        if let Some(key) = &request.idempotency_key {
            return Ok(idempotent_id(&request.keyspace, asker.caller.subject(), key));
        }
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| Error::internal("no random bytes"))?;
        Ok(KeyId(id))
    }

    /// A keyspace of this pool.
    pub(super) fn check_served(&self, request: &CreateRequest) -> Result<(), Error> {
        if self.keyspaces.contains(&request.keyspace) {
            return Ok(());
        }
        let detail = format!("keyspace {} is not served here", request.keyspace);
        Err(Error::invalid("keyspace", detail))
    }

    /// A create of a key whose id was chosen.
    pub(super) fn plan_create(request: CreateRequest, key_id: KeyId) -> Plan {
        let idempotent = request.idempotency_key.is_some();
        let parameters_hash = if idempotent { parameters_hash(&request) } else { Bytes::new() };
        Plan { key_id, keyspace: request.keyspace, challenge: request.challenge, parameters_hash }
    }

    /// The record of an earlier create with the same idempotency key and parameters.
    pub(super) async fn created_before(&self, plan: &Plan) -> Result<Option<KeyRecord>, Error> {
        if plan.parameters_hash.is_empty() {
            return Ok(None);
        }
        match self.records.key(plan.key_id.0).await? {
            Some(record) => same_parameters(plan, record).map(Some),
            None => Ok(None),
        }
    }

    /// The answer to a call of the enclave that began then; both are counted.
    fn called<T>(
        &self,
        started: Instant,
        reply: Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, Error> {
        self.metrics.phase(Method::Create, Phase::Enclave, started.elapsed());
        let reply = reply.map_err(|status| {
            self.metrics.enclave_failed();
            call_error(&status).after(started)
        })?;
        Ok(reply.into_inner())
    }

    /// The enclave makes the key and seals it.
    pub(super) async fn seal(&self, plan: &Plan) -> Result<Sealed, Error> {
        let started = Instant::now();
        let request = v1::CreateRequest {
            keyspace: plan.keyspace.clone(),
            key_id: Bytes::copy_from_slice(&plan.key_id.0),
            challenge: plan.challenge.clone(),
            policy: Bytes::new(),
        };
        let mut client = self.router.client()?;
        let reply = client.create(request).await;
        let mut reply = self.called(started, reply)?;
        match ErrorCode::try_from(reply.error) {
            Ok(ErrorCode::Ok) => {}
            Ok(ErrorCode::UnlockRequired) => {
                return Err(self.unlock_required(&plan.keyspace, Target::Sealing, None, started));
            }
            _ => return Err(Error::from_enclave(reply.error)),
        }
        let birth =
            reply.birth.take().ok_or_else(|| Error::internal("create without a statement"))?;
        let document_hash = sha256(&birth.document);
        Ok(Sealed { reply, birth, document_hash })
    }

    /// The document that binds the statement's key, stored once.
    pub(super) async fn store_document(&self, sealed: &Sealed) -> Result<(), Error> {
        if self.stored.has_document(&sealed.document_hash) {
            return Ok(());
        }
        self.records.put_document(sealed.document_hash, sealed.birth.document.clone()).await?;
        self.stored.add_document(sealed.document_hash);
        Ok(())
    }

    /// The key's record, with its own copy of the wrapped DEK, durable.
    pub(super) async fn store_key(&self, plan: &Plan, sealed: Sealed) -> Result<(), Error> {
        let started = Instant::now();
        let dek_id = sealed
            .reply
            .dek_id
            .as_ref()
            .try_into()
            .map_err(|_| Error::internal("create without a DEK id"))?;
        let dek = self.wrapped_dek(dek_id).await?;
        let record = KeyRecord {
            key_id: plan.key_id.0,
            keyspace: plan.keyspace.clone(),
            blob: sealed.reply.blob,
            dek_id,
            wrapped_dek: dek.wrapped.clone(),
            statement: sealed.birth.statement,
            signature: sealed.birth.signature,
            document_hash: sealed.document_hash,
            created_ms: now_ms(),
            parameters_hash: plan.parameters_hash.clone(),
            kms_key_arn: dek.kms_key_arn.clone(),
        };
        let made = record.public_key().map_err(|error| Error::internal(error.to_string()))?;
        if made[..] != sealed.reply.public_key[..] {
            return Err(Error::internal("blob and answer of create differ in their public key"));
        }
        let before = self.records.put_key(&record).await?;
        self.metrics.phase(Method::Create, Phase::Store, started.elapsed());
        // Somebody with the same idempotency key was faster: theirs is the key.
        before.map_or(Ok(()), |record| same_parameters(plan, record).map(|_| ()))
    }

    async fn wrapped_dek(&self, dek_id: [u8; 16]) -> Result<Arc<WrappedDek>, Error> {
        if let Some(dek) = self.stored.dek(&dek_id) {
            return Ok(dek);
        }
        let record = self.records.dek(dek_id).await?.ok_or_else(|| {
            Error::internal(format!("the store lost the row of DEK {}", const_hex::encode(dek_id)))
        })?;
        let dek =
            Arc::new(WrappedDek { wrapped: record.wrapped_dek, kms_key_arn: record.kms_key_arn });
        self.stored.add_dek(dek_id, Arc::clone(&dek));
        Ok(dek)
    }

    /// What the store really holds.
    pub(super) async fn read_back(&self, plan: &Plan) -> Result<KeyRecord, Error> {
        self.records.key(plan.key_id.0).await?.ok_or_else(|| {
            Error::new(Code::RetryLater, "the store does not give back what it took")
                .because("a key record vanished after its commit")
        })
    }

    /// Opens the stored blob in the enclave, verifies the birth statement, answers.
    pub(super) async fn acknowledge(
        &self,
        plan: &Plan,
        record: KeyRecord,
        earlier: bool,
    ) -> Result<Created, Error> {
        let public_key = self.activate(&record).await?;
        failpoint::hit("create.activated");
        let document = self.records.document(record.document_hash).await?.ok_or_else(|| {
            Error::new(Code::InvalidKey, "the document of the key's birth is not in the store")
        })?;
        let app = record.app().unwrap_or_default().to_owned();
        let birth = Birth {
            statement: record.statement.clone(),
            signature: record.signature.clone(),
            document_hash: record.document_hash,
            document,
        };
        let expected = Expected {
            app,
            keyspace: plan.keyspace.clone(),
            key_id: plan.key_id,
            public_key,
            challenge: plan.challenge.to_vec(),
            earlier,
        };
        self.verify_birth(&birth, expected).await?;
        failpoint::hit("create.verified");
        self.directory.insert(plan.key_id, record.keyspace.as_str().into());
        Ok(Created { key_id: plan.key_id, keyspace: record.keyspace, public_key, birth })
    }

    /// Verifies the statement as applications do. That costs a millisecond of CPU, which must not
    /// hold up the signatures of this thread.
    async fn verify_birth(&self, birth: &Birth, expected: Expected) -> Result<(), Error> {
        let (births, statement, earlier) =
            (Arc::clone(&self.births), birth.clone(), expected.earlier);
        let verified = tokio::task::spawn_blocking(move || births.verify(&statement, &expected));
        verified
            .await
            .map_err(|_| Error::internal("the birth statement's check was cut short"))?
            .map_err(|why| not_proved(earlier, &why))
    }

    /// Has the enclave open the blob; gives the public key that it recomputed.
    pub(super) async fn activate(&self, record: &KeyRecord) -> Result<[u8; 33], Error> {
        let started = Instant::now();
        let request = v1::ActivateRequest {
            keyspace: record.keyspace.clone(),
            key_id: Bytes::copy_from_slice(&record.key_id),
            blob: record.blob.clone(),
        };
        let mut client = self.router.client()?;
        let reply = client.activate(request).await;
        let reply = self.called(started, reply)?;
        match ErrorCode::try_from(reply.error) {
            Ok(ErrorCode::Ok) => {}
            Ok(ErrorCode::UnlockRequired) => return Err(self.dek_locked(record, started)),
            _ => return Err(Error::from_enclave(reply.error)),
        }
        let header = record.public_key().map_err(|error| Error::internal(error.to_string()))?;
        if reply.public_key[..] != header[..] {
            return Err(Error::internal("activate and blob differ in their public key"));
        }
        Ok(header)
    }
}

// === impl Stored ===

impl Stored {
    fn dek(&self, dek_id: &[u8; 16]) -> Option<Arc<WrappedDek>> {
        self.deks.lock().unwrap_or_else(PoisonError::into_inner).get(dek_id).cloned()
    }

    fn add_dek(&self, dek_id: [u8; 16], dek: Arc<WrappedDek>) {
        let mut deks = self.deks.lock().unwrap_or_else(PoisonError::into_inner);
        if deks.len() >= REMEMBERED_MAX {
            deks.clear();
        }
        deks.insert(dek_id, dek);
    }

    fn has_document(&self, hash: &[u8; 32]) -> bool {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    fn add_document(&self, hash: [u8; 32]) {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if documents.len() >= REMEMBERED_MAX {
            documents.clear();
        }
        documents.insert(hash);
    }
}

/// A fresh key whose statement is wrong is a defect; a stored one was damaged or planted.
fn not_proved(earlier: bool, why: &BirthError) -> Error {
    if !earlier {
        return Error::internal(format!("birth statement: {why}"));
    }
    let detail = format!(
        "the stored key under this idempotencyKey is not proved to be made in an accepted enclave: \
         {why}; name the image in enclave.retiredMeasurements if you trust it, restore the record \
         from a backup, or use another idempotencyKey"
    );
    let error = Error::new(Code::InvalidKey, detail);
    Error { field: Some("idempotencyKey".into()), ..error }
}

fn same_parameters(plan: &Plan, record: KeyRecord) -> Result<KeyRecord, Error> {
    if record.parameters_hash == plan.parameters_hash && !plan.parameters_hash.is_empty() {
        return Ok(record);
    }
    let error = Error::new(
        Code::KeyConflict,
        "this idempotencyKey was used with another keyspace, policy or challenge",
    );
    Err(Error { field: Some("idempotencyKey".into()), ..error })
}

fn lp(out: &mut Vec<u8>, bytes: &[u8]) {
    // Every text here is bounded far below 64 KiB.
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// `docs/formats.md`, "Store records". The subject is empty where nobody is authenticated.
fn idempotent_id(keyspace: &str, subject: &str, idempotency_key: &str) -> KeyId {
    let mut input = b"sigil/idem/v1".to_vec();
    lp(&mut input, keyspace.as_bytes());
    lp(&mut input, subject.as_bytes());
    lp(&mut input, idempotency_key.as_bytes());
    let hash = sha256(&input);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    KeyId(id)
}

fn parameters_hash(request: &CreateRequest) -> Bytes {
    let mut input = b"sigil/create/v1".to_vec();
    lp(&mut input, request.keyspace.as_bytes());
    lp(&mut input, b"");
    lp(&mut input, &request.challenge);
    Bytes::copy_from_slice(&sha256(&input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record_for_tests;

    fn request(keyspace: &str, challenge: &'static [u8]) -> CreateRequest {
        CreateRequest {
            keyspace: keyspace.to_owned(),
            idempotency_key: Some("order-17".to_owned()),
            challenge: Bytes::from_static(challenge),
        }
    }

    #[test]
    fn ids_and_hashes_are_those_of_the_formats() {
        // SHA-256("sigil/idem/v1" | 0007 "default" | 0000 | 0008 "order-17"), first 16 bytes.
        let mut input = b"sigil/idem/v1\x00\x07default\x00\x00\x00\x08order-17".to_vec();
        assert_eq!(idempotent_id("default", "", "order-17").0, sha256(&input)[..16]);
        input = b"sigil/idem/v1\x00\x07default\x00\x04cn:a\x00\x08order-17".to_vec();
        assert_eq!(idempotent_id("default", "cn:a", "order-17").0, sha256(&input)[..16]);
        input = b"sigil/create/v1\x00\x07default\x00\x00\x00\x02hi".to_vec();
        assert_eq!(parameters_hash(&request("default", b"hi"))[..], sha256(&input));
    }

    #[test]
    fn the_same_idempotency_key_with_other_parameters_conflicts() {
        let plan = Plan {
            key_id: KeyId([1; 16]),
            keyspace: "default".to_owned(),
            challenge: Bytes::new(),
            parameters_hash: parameters_hash(&request("default", b"a")),
        };
        let mut record = record_for_tests([1; 16], "default");
        record.parameters_hash = plan.parameters_hash.clone();
        assert!(same_parameters(&plan, record.clone()).is_ok());
        for other in [parameters_hash(&request("default", b"b")), Bytes::new()] {
            record.parameters_hash = other;
            let error = same_parameters(&plan, record.clone()).unwrap_err();
            assert_eq!(
                (error.code, error.field.as_deref()),
                (Code::KeyConflict, Some("idempotencyKey"))
            );
        }
        let random = Plan { parameters_hash: Bytes::new(), ..plan };
        record.parameters_hash = Bytes::new();
        assert!(same_parameters(&random, record).is_err(), "two random ids never mean one key");
    }
}
