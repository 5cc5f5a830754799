//! What one job does: find or make the DEK, have KMS decrypt it inside the enclave.

use std::sync::Arc;

use sigil_enclave_protocol::v1::unlock_begin_request::What;
use sigil_enclave_protocol::v1::{
    self, DekProvenance, GenerateDek, UnlockAuthorizeReply, UnlockBeginRequest,
};

use super::exchange::{AuditSubject, ExchangeError, Exchanger};
use super::queue::{Job, JobKey, Target};
use crate::failpoint;
use crate::pool::Boot;
use crate::status::KmsErrorClass;
use crate::store::{DekRecord, Records, StoreError};

/// What a job did.
#[derive(Debug)]
pub(super) struct Unlocked {
    pub(super) dek_id: [u8; 16],
    /// New keys of the keyspace are sealed under it.
    pub(super) sealing: bool,
    /// Until the enclave forgets it, ms.
    pub(super) valid_for_ms: u64,
}

/// Where a job finds what it works on.
pub(super) struct Worker {
    pub(super) exchanger: Exchanger,
    pub(super) records: Records,
    pub(super) key_arn: Option<String>,
}

/// The list of classes is closed, and none is the store's. `enclave` is the one that says nothing about
/// KMS: the breaker takes it for undecided, while any other would shut it, or take it for an answer, for a
/// fault that is none of KMS's. The log's `detail` begins with "the store", and `store_durable` shows it.
impl From<StoreError> for ExchangeError {
    fn from(error: StoreError) -> Self {
        Self::new(KmsErrorClass::Enclave, error.to_string())
    }
}

// === impl Worker ===

impl Worker {
    /// The id of the DEK to unlock: the job's own, or the keyspace's for this image, made if there
    /// is none.
    pub(super) async fn resolve(&self, job: &Job, boot: &Boot) -> Result<[u8; 16], ExchangeError> {
        let keyspace = &*job.key.keyspace;
        match job.key.target {
            Target::Dek(dek_id) => Ok(dek_id),
            Target::Sealing => match self.records.current(keyspace, &boot.pcr0).await? {
                Some(dek_id) => Ok(dek_id),
                None => self.generate(job, boot).await,
            },
        }
    }

    /// Makes a DEK. The enclave has erased its plaintext when this returns: what is installed later
    /// is what the store gives back. Of several members that do this at once, one is elected. Only a
    /// row that was seen to open as born here stands for election, since an election is for good: a
    /// false answer at generation leaves a row that nothing names.
    async fn generate(&self, job: &Job, boot: &Boot) -> Result<[u8; 16], ExchangeError> {
        let keyspace = &*job.key.keyspace;
        let request = UnlockBeginRequest {
            what: Some(What::Generate(GenerateDek {
                keyspace: keyspace.to_owned(),
                kms_key_arn: self.key_arn.clone().unwrap_or_default(),
            })),
            current: false,
        };
        let reply = self.exchanger.run(boot, request, &subject(job)).await?;
        failpoint::hit("unlock.generated");
        let record = generated_record(keyspace, reply)?;
        self.records.put_dek(&record).await?;
        failpoint::hit("unlock.row-stored");
        self.prove(job, record.dek_id, boot).await?;
        failpoint::hit("unlock.proved");
        let elected = self.records.elect_current(keyspace, &boot.pcr0, record.dek_id).await?;
        failpoint::hit("unlock.elected");
        tracing::info!(
            keyspace,
            dek_id = const_hex::encode(record.dek_id),
            elected = const_hex::encode(elected),
            "DEK generated"
        );
        Ok(elected)
    }

    /// Has a new row decrypted once, as a DEK that only opens.
    async fn prove(&self, job: &Job, dek_id: [u8; 16], boot: &Boot) -> Result<(), ExchangeError> {
        let row = self.row(job, dek_id).await?;
        let request = UnlockBeginRequest { what: Some(What::Row(row)), current: false };
        let reply = self.exchanger.run(boot, request, &subject(job)).await?;
        if reply.provenance() == DekProvenance::Born {
            return Ok(());
        }
        Err(does_not_seal(&reply))
    }

    /// Reads the DEK's row back and has it decrypted inside the enclave.
    pub(super) async fn open(
        &self,
        job: &Job,
        dek_id: [u8; 16],
        boot: &Boot,
    ) -> Result<Unlocked, ExchangeError> {
        let keyspace = &*job.key.keyspace;
        let row = self.row(job, dek_id).await?;
        let current = self.records.current(keyspace, &boot.pcr0).await? == Some(dek_id);
        failpoint::hit("unlock.read-back");
        let request = UnlockBeginRequest { what: Some(What::Row(row)), current };
        let reply = self.exchanger.run(boot, request, &subject(job)).await?;
        failpoint::hit("unlock.installed");
        if current && !reply.sealing {
            return Err(does_not_seal(&reply));
        }
        Ok(Unlocked { dek_id, sealing: reply.sealing, valid_for_ms: reply.valid_for_ms })
    }

    /// The row, or the copy of the wrapped DEK in a key's record when the row was lost. Such a copy
    /// has no birth document, so the DEK opens and never seals.
    async fn row(&self, job: &Job, dek_id: [u8; 16]) -> Result<v1::DekRow, ExchangeError> {
        if let Some(record) = self.records.dek(dek_id).await? {
            return Ok(row_of(record));
        }
        let Some(key_id) = job.key_id else { return Err(missing(dek_id)) };
        match self.records.key(key_id.0).await? {
            Some(key) if key.dek_id == dek_id => Ok(v1::DekRow {
                dek_id: key.dek_id.to_vec().into(),
                keyspace: key.keyspace,
                wrapped_dek: key.wrapped_dek,
                birth_document: bytes::Bytes::new(),
                kms_key_arn: key.kms_key_arn,
            }),
            _ => Err(missing(dek_id)),
        }
    }
}

fn does_not_seal(reply: &UnlockAuthorizeReply) -> ExchangeError {
    ExchangeError::new(
        KmsErrorClass::Attestation,
        format!(
            "the keyspace's DEK does not seal here: its birth is {}",
            reply.provenance().as_str_name()
        ),
    )
}

fn missing(dek_id: [u8; 16]) -> ExchangeError {
    ExchangeError::new(
        KmsErrorClass::Enclave,
        format!("the store has no row of DEK {}", const_hex::encode(dek_id)),
    )
}

fn row_of(record: DekRecord) -> v1::DekRow {
    v1::DekRow {
        dek_id: record.dek_id.to_vec().into(),
        keyspace: record.keyspace,
        wrapped_dek: record.wrapped_dek,
        birth_document: record.birth_document,
        kms_key_arn: record.kms_key_arn,
    }
}

fn generated_record(
    keyspace: &str,
    reply: UnlockAuthorizeReply,
) -> Result<DekRecord, ExchangeError> {
    let wrong = |what| ExchangeError::new(KmsErrorClass::Enclave, format!("generated DEK: {what}"));
    let row = reply.generated.ok_or_else(|| wrong("absent"))?;
    if row.keyspace != keyspace {
        return Err(wrong("of another keyspace"));
    }
    Ok(DekRecord {
        dek_id: row.dek_id.as_ref().try_into().map_err(|_| wrong("its id is not 16 bytes"))?,
        keyspace: row.keyspace,
        wrapped_dek: row.wrapped_dek,
        birth_document: row.birth_document,
        kms_key_arn: row.kms_key_arn,
    })
}

fn subject(job: &Job) -> AuditSubject<'_> {
    AuditSubject {
        unlock_request_id: &job.id,
        keyspace: &job.key.keyspace,
        key_id: job.key_id.map(|id| id.to_string()),
    }
}

/// The name under which callers ask for `dek_id`.
pub(super) fn dek_key(keyspace: &Arc<str>, dek_id: [u8; 16]) -> JobKey {
    JobKey { keyspace: Arc::clone(keyspace), target: Target::Dek(dek_id) }
}
