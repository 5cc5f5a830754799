//! Answers in the words of the contract.

use bytes::Bytes;
use sigil_enclave_protocol::v1::{
    ActivateReply, AttestReply, CacheSettings, ConfigureReply, CreateReply, DekProvenance,
    DekRow as WireRow, DekState, ErrorCode, HealthReply, Histogram, KmsRequest, ProveReply,
    ResealReply, StateReply, Statement, StatsReply, UnlockAuthorizeReply, UnlockBeginReply,
    WorkerStats as WireWorker,
};

use crate::clock::boot_ms;
use crate::dek::{DekId, Provenance, Unlocked};
use crate::enclave::Enclave;
use crate::keys::{Created, KeyError};
use crate::kms_exchange::{AnswerClass, ExchangeError};
use crate::rng::RngSource;
use crate::slab::{Slab, slab};
use crate::statements::SignedStatement;
use crate::stats::{Count, SIGN_CPU_BOUNDS_US, WorkerStats};
use crate::unlock::{Begun, DekRow, Done, UnlockError};

/// A refusal on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    pub(super) dek_id: Option<DekId>,
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self { code, dek_id: None }
    }
}

impl Refused {
    pub(super) fn dek_id_bytes(self) -> Bytes {
        self.dek_id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default()
    }

    pub(super) fn into_create(self) -> CreateReply {
        let (error, dek_id) = (self.code.into(), self.dek_id_bytes());
        CreateReply { error, dek_id, ..CreateReply::default() }
    }

    pub(super) fn into_activate(self) -> ActivateReply {
        let (error, dek_id) = (self.code.into(), self.dek_id_bytes());
        ActivateReply { error, dek_id, ..ActivateReply::default() }
    }

    pub(super) fn into_reseal(self) -> ResealReply {
        let (error, dek_id) = (self.code.into(), self.dek_id_bytes());
        ResealReply { error, dek_id, ..ResealReply::default() }
    }

    pub(super) fn into_prove(self) -> ProveReply {
        let (error, dek_id) = (self.code.into(), self.dek_id_bytes());
        ProveReply { error, dek_id, ..ProveReply::default() }
    }
}

pub(super) fn key_code(error: KeyError) -> ErrorCode {
    match error {
        KeyError::BlobRequired => ErrorCode::BlobRequired,
        KeyError::UnlockRequired(_) | KeyError::NoSealingDek => ErrorCode::UnlockRequired,
        KeyError::Invalid => ErrorCode::InvalidKey,
        KeyError::Conflict => ErrorCode::KeyConflict,
        KeyError::NotPinned => ErrorCode::KeyspaceNotPinned,
        KeyError::StatementsStale | KeyError::OutOfTime => ErrorCode::RetryLater,
        KeyError::Unvouched => ErrorCode::DekMismatch,
        KeyError::NoRoom => ErrorCode::Overloaded,
        KeyError::Internal => ErrorCode::Internal,
    }
}

pub(super) fn created(created: Created) -> CreateReply {
    CreateReply {
        error: ErrorCode::Ok.into(),
        blob: created.blob.into(),
        public_key: Bytes::copy_from_slice(&created.public_key),
        dek_id: Bytes::copy_from_slice(&created.dek_id),
        birth: Some(statement(created.birth)),
    }
}

pub(super) fn activated(public_key: &[u8; 33], dek_id: &DekId) -> ActivateReply {
    ActivateReply {
        error: ErrorCode::Ok.into(),
        public_key: Bytes::copy_from_slice(public_key),
        dek_id: Bytes::copy_from_slice(dek_id),
    }
}

pub(super) fn resealed((blob, public_key, dek_id): (Vec<u8>, [u8; 33], DekId)) -> ResealReply {
    ResealReply {
        error: ErrorCode::Ok.into(),
        blob: blob.into(),
        public_key: Bytes::copy_from_slice(&public_key),
        dek_id: Bytes::copy_from_slice(&dek_id),
    }
}

/// Puts settings in force and says what then holds.
pub(super) fn configured(enclave: &Enclave, settings: CacheSettings) -> ConfigureReply {
    let now_ms = boot_ms();
    let done = enclave.cache.configure(settings, now_ms);
    if done.is_ok() {
        enclave.deks.limit(now_ms.saturating_add(settings.dek_hard_ttl_ms));
    }
    let error = done.map_or(ErrorCode::InvalidArgument, |()| ErrorCode::Ok);
    ConfigureReply {
        error: error.into(),
        refused_field: done.err().unwrap_or(0),
        in_force: Some(enclave.cache.settings()),
    }
}

pub(super) fn proved(signed: SignedStatement) -> ProveReply {
    ProveReply {
        error: ErrorCode::Ok.into(),
        possession: Some(statement(signed)),
        dek_id: Bytes::new(),
    }
}

fn statement(signed: SignedStatement) -> Statement {
    Statement {
        statement: signed.statement.into(),
        signature: Bytes::copy_from_slice(&signed.signature),
        document: signed.document,
    }
}

pub(super) fn begun(begun: Begun) -> UnlockBeginReply {
    let request = begun.request;
    UnlockBeginReply {
        error: ErrorCode::Ok.into(),
        unlock_id: Bytes::copy_from_slice(&begun.unlock_id),
        request: Some(KmsRequest {
            host: request.host,
            region: request.region,
            target: request.target.into(),
            content_type: request.content_type.into(),
            body: request.body.into(),
            kms_key_arn: request.key_arn,
        }),
        dek_id: Bytes::copy_from_slice(&begun.dek_id),
        attestation_hash: Bytes::copy_from_slice(begun.attestation_hash.as_ref()),
    }
}

pub(super) fn not_begun(code: ErrorCode) -> UnlockBeginReply {
    UnlockBeginReply { error: code.into(), ..UnlockBeginReply::default() }
}

pub(super) fn unlocked(done: Done) -> UnlockAuthorizeReply {
    let reply = UnlockAuthorizeReply { http_status: 200, ..UnlockAuthorizeReply::default() };
    match done {
        Done::Generated(row) => UnlockAuthorizeReply { generated: Some(wire_row(row)), ..reply },
        Done::Unlocked { installed, valid_for_ms } => UnlockAuthorizeReply {
            provenance: provenance(installed.provenance).into(),
            sealing: installed.sealing,
            valid_for_ms,
            ..reply
        },
    }
}

pub(super) fn not_authorized(code: ErrorCode) -> UnlockAuthorizeReply {
    UnlockAuthorizeReply { error: code.into(), ..UnlockAuthorizeReply::default() }
}

pub(super) fn not_unlocked(error: &UnlockError) -> UnlockAuthorizeReply {
    let (http_status, aws_error_code) = match error {
        UnlockError::Answer(answer) => (answer.http_status.into(), answer.aws_error_code.into()),
        _ => (0, String::new()),
    };
    UnlockAuthorizeReply { http_status, aws_error_code, ..not_authorized(unlock_code(error)) }
}

pub(super) fn unlock_code(error: &UnlockError) -> ErrorCode {
    match error {
        UnlockError::NotPinned => ErrorCode::KeyspaceNotPinned,
        UnlockError::TooMany | UnlockError::Full => ErrorCode::Overloaded,
        UnlockError::Attestation => ErrorCode::AttestationFailed,
        UnlockError::Unknown => ErrorCode::UnlockUnknown,
        UnlockError::TunnelMissing => ErrorCode::TunnelMissing,
        UnlockError::Exchange(ExchangeError::Timeout) => ErrorCode::KmsTimeout,
        UnlockError::Exchange(ExchangeError::Tls | ExchangeError::Http) => {
            ErrorCode::KmsUnreachable
        }
        UnlockError::Exchange(ExchangeError::TooLong) => ErrorCode::KmsAnswerRefused,
        UnlockError::Answer(answer) => match answer.class {
            AnswerClass::Denied => ErrorCode::KmsDenied,
            AnswerClass::Throttled => ErrorCode::KmsThrottled,
            AnswerClass::Error => ErrorCode::KmsError,
            AnswerClass::Refused => ErrorCode::KmsAnswerRefused,
            AnswerClass::NoRoom => ErrorCode::Overloaded,
        },
        UnlockError::Gate(code) => *code,
        UnlockError::Mismatch => ErrorCode::DekMismatch,
        UnlockError::Internal => ErrorCode::Internal,
    }
}

pub(super) fn not_attested(code: ErrorCode) -> AttestReply {
    AttestReply { error: code.into(), ..AttestReply::default() }
}

fn provenance(provenance: Provenance) -> DekProvenance {
    match provenance {
        Provenance::Born => DekProvenance::Born,
        Provenance::Foreign(_) => DekProvenance::Foreign,
        Provenance::Unproven => DekProvenance::Unproven,
    }
}

fn wire_row(row: DekRow) -> WireRow {
    WireRow {
        dek_id: Bytes::copy_from_slice(&row.dek_id),
        keyspace: row.keyspace.as_str().to_owned(),
        wrapped_dek: row.wrapped.into(),
        birth_document: row.birth_document.into(),
        kms_key_arn: row.key_arn,
    }
}

pub(super) fn state(enclave: &Enclave, now_ms: u64) -> StateReply {
    let deks = enclave.deks.list(now_ms);
    let deks = deks.iter().map(|Unlocked { id, keyspace, installed }| DekState {
        dek_id: Bytes::copy_from_slice(id),
        keyspace: keyspace.as_str().to_owned(),
        provenance: provenance(installed.provenance).into(),
        sealing: installed.sealing,
        valid_for_ms: installed.until_ms.saturating_sub(now_ms),
    });
    let counts = enclave.cache.counts();
    StateReply {
        error: ErrorCode::Ok.into(),
        deks: deks.collect(),
        keys_warm: counts.warm,
        keys_cool: counts.cool,
        keys_invalid: counts.invalid,
        settings: Some(enclave.cache.settings()),
    }
}

pub(super) fn health(enclave: &Enclave, now_ms: u64) -> HealthReply {
    let rng_current = match enclave.rng_source() {
        RngSource::NsmHwrng => "nsm-hwrng",
        RngSource::Software => "software",
        RngSource::Other => "other",
    };
    HealthReply {
        error: ErrorCode::Ok.into(),
        boot_id: Bytes::copy_from_slice(&enclave.boot_id.0),
        insecure: enclave.pins.insecure,
        rng_current: rng_current.into(),
        workers: enclave.workers.into(),
        uptime_ms: now_ms.saturating_sub(enclave.started_ms),
        app: enclave.pins.app.clone(),
        pins_sha384: Bytes::copy_from_slice(enclave.pins_sha384.as_ref()),
        documents_verify: enclave.documents_verify(),
        draining: *enclave.draining.borrow(),
    }
}

pub(super) fn stats(enclave: &Enclave, now_ms: u64) -> StatsReply {
    let counts = enclave.cache.counts();
    let slab = slab().ok();
    let slots = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    StatsReply {
        error: ErrorCode::Ok.into(),
        uptime_us: now_ms.saturating_sub(enclave.started_ms).saturating_mul(1_000),
        engine_init_us: enclave.engine_init_us.get(),
        secrets: slots(slab.map_or(0, Slab::in_use)),
        secrets_max: slots(slab.map_or(0, Slab::slots)),
        keys_warm: counts.warm,
        keys_cool: counts.cool,
        keys_invalid: counts.invalid,
        workers: enclave.worker_stats.iter().map(|stats| worker_stats(stats)).collect(),
        keyspaces: enclave.cache.stats.snapshot(),
    }
}

fn worker_stats(stats: &WorkerStats) -> WireWorker {
    WireWorker {
        busy_us: stats.busy_us(),
        signed: stats.signed.get(),
        refused: stats.refused.get(),
        queued_item_us: stats.queued_item_us.get(),
        sign_cpu_us: Some(Histogram {
            upper_bounds: SIGN_CPU_BOUNDS_US.to_vec(),
            counts: stats.sign_cpu.iter().map(Count::get).collect(),
            sum: stats.sign_cpu_us.get(),
        }),
    }
}
