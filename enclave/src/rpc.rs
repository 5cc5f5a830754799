//! The gRPC face, and the only file (with its parts) that knows gRPC. Every input is bounded and
//! checked here; every answer carries a code of the closed list and no free text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sigil_enclave_protocol::bounds::MESSAGE_BYTES_MAX;
use sigil_enclave_protocol::v1::enclave_server::{Enclave as EnclaveApi, EnclaveServer};
use sigil_enclave_protocol::v1::{
    ActivateReply, ActivateRequest, AttestReply, AttestRequest, CacheSettings, ConfigureReply,
    CreateReply, CreateRequest, DrainReply, DrainRequest, ErrorCode, ForceRefreshReply,
    ForceRefreshRequest, ForgetReply, ForgetRequest, HealthReply, HealthRequest, ProveReply,
    ProveRequest, ResealReply, ResealRequest, StateReply, StateRequest, StatsReply, StatsRequest,
    UnlockAuthorizeReply, UnlockAuthorizeRequest, UnlockBeginReply, UnlockBeginRequest,
};
use sigil_enclave_protocol::wire::Raw;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::boot_ms;
use crate::enclave::Enclave;
use crate::key_cache::slot::Event;
use crate::keys::{Created, KeyError};
use crate::signer::Signer;
use crate::stats::WorkerStats;

pub mod batch;
pub mod check;
mod reply;
mod sign;

type Reply<T> = Result<Response<T>, Status>;

/// The service of one worker.
#[derive(Clone)]
pub struct Service {
    enclave: Arc<Enclave>,
    /// Of this worker alone, so the lock is never waited for.
    signer: Arc<Mutex<Signer>>,
    stats: Arc<WorkerStats>,
}

impl Service {
    /// The service of the worker that owns `signer` and counts in `stats`.
    pub fn new(enclave: Arc<Enclave>, signer: Arc<Mutex<Signer>>, stats: Arc<WorkerStats>) -> Self {
        Self { enclave, signer, stats }
    }

    /// The HTTP/2 service with its message bounds.
    pub fn into_server(self) -> EnclaveServer<Self> {
        EnclaveServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn signer(&self) -> MutexGuard<'_, Signer> {
        self.signer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_key(&self, request: &CreateRequest) -> Result<Created, reply::Refused> {
        let name = check::create(request)?;
        self.enclave.gate()?;
        Ok(self.enclave.create(&self.signer(), &name, &request.challenge, boot_ms())?)
    }

    fn activate_key(&self, request: &ActivateRequest) -> Result<ActivateReply, reply::Refused> {
        let name = check::name(&request.keyspace, &request.key_id)?;
        let blob = check::blob(&request.blob)?.ok_or(ErrorCode::InvalidArgument)?;
        self.enclave.gate()?;
        let (public_key, dek_id) = self.enclave.activate(&self.signer(), &name, blob, boot_ms())?;
        Ok(reply::activated(&public_key, &dek_id))
    }

    fn prove_key(&self, request: &ProveRequest) -> Result<ProveReply, reply::Refused> {
        let name = check::name(&request.keyspace, &request.key_id)?;
        check::nonce(&request.nonce)?;
        self.enclave.gate()?;
        let statement = self.enclave.prove(&self.signer(), &name, &request.nonce, boot_ms())?;
        Ok(reply::proved(statement))
    }

    fn refresh_key(&self, request: &ForceRefreshRequest) -> Result<(), reply::Refused> {
        let name = check::name(&request.keyspace, &request.key_id)?;
        self.enclave.gate()?;
        let (signer, event) = (self.signer(), Event::Refresh { forced: true });
        let by = self.enclave.opener(&signer, boot_ms());
        Ok(self.enclave.cache.ask(&name, None, event, &by).map(drop)?)
    }

    fn reseal_key(&self, request: &ResealRequest) -> Result<ResealReply, reply::Refused> {
        let name = check::name(&request.keyspace, &request.key_id)?;
        let blob = check::blob(&request.blob)?.ok_or(ErrorCode::InvalidArgument)?;
        self.enclave.gate()?;
        let sealed = self.enclave.reseal(&self.signer(), &name, blob, boot_ms())?;
        Ok(reply::resealed(sealed))
    }

    fn forget_key(&self, request: &ForgetRequest) -> Result<bool, reply::Refused> {
        let name = check::name(&request.keyspace, &request.key_id)?;
        Ok(self.enclave.forget(&name))
    }
}

#[tonic::async_trait]
impl EnclaveApi for Service {
    type SignStream = sign::SignStream;

    async fn sign(&self, request: Request<Streaming<Raw>>) -> Reply<Self::SignStream> {
        Ok(Response::new(sign::SignStream::new(self.clone(), request.into_inner())))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Reply<CreateReply> {
        let made = self.create_key(request.get_ref());
        Ok(Response::new(made.map_or_else(reply::Refused::into_create, reply::created)))
    }

    async fn activate(&self, request: Request<ActivateRequest>) -> Reply<ActivateReply> {
        let done = self.activate_key(request.get_ref());
        Ok(Response::new(done.unwrap_or_else(reply::Refused::into_activate)))
    }

    async fn unlock_begin(&self, request: Request<UnlockBeginRequest>) -> Reply<UnlockBeginReply> {
        let checked = check::unlock(request.into_inner());
        let what = match checked.and_then(|what| self.enclave.gate().map(|()| what)) {
            Ok(what) => what,
            Err(code) => return Ok(Response::new(reply::not_begun(code))),
        };
        let enclave = Arc::clone(&self.enclave);
        // Waited for here, where a call that is cancelled ends.
        self.enclave.unlocks.ready().await;
        let begun = self.enclave.control.spawn(async move { enclave.unlock_begin(what) }).await;
        Ok(Response::new(match begun {
            Ok(Ok(begun)) => reply::begun(begun),
            Ok(Err(error)) => reply::not_begun(reply::unlock_code(&error)),
            Err(_) => reply::not_begun(ErrorCode::Internal),
        }))
    }

    async fn unlock_authorize(
        &self,
        request: Request<UnlockAuthorizeRequest>,
    ) -> Reply<UnlockAuthorizeReply> {
        let checked = check::authorize(request.into_inner());
        let (id, headers) = match checked.and_then(|it| self.enclave.gate().map(|()| it)) {
            Ok(checked) => checked,
            Err(code) => return Ok(Response::new(reply::not_authorized(code))),
        };
        // A task of its own: it ends as it must even if the caller goes away.
        let work = Arc::clone(&self.enclave).unlock_authorize(id, headers);
        Ok(Response::new(match self.enclave.control.spawn(work).await {
            Ok(Ok(done)) => reply::unlocked(done),
            Ok(Err(error)) => reply::not_unlocked(&error),
            Err(_) => reply::not_authorized(ErrorCode::Internal),
        }))
    }

    async fn attest(&self, request: Request<AttestRequest>) -> Reply<AttestReply> {
        let Ok(nonce) = check::attest_nonce(&request.get_ref().nonce) else {
            return Ok(Response::new(reply::not_attested(ErrorCode::InvalidArgument)));
        };
        let enclave = Arc::clone(&self.enclave);
        let made = self.enclave.control.spawn(async move { enclave.attest(&nonce) }).await;
        Ok(Response::new(match made {
            Ok(Ok(Some(made))) => AttestReply { document: made.into(), ..AttestReply::default() },
            Ok(Ok(None)) => reply::not_attested(ErrorCode::Overloaded),
            Ok(Err(_)) => reply::not_attested(ErrorCode::AttestationFailed),
            Err(_) => reply::not_attested(ErrorCode::Internal),
        }))
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Reply<ProveReply> {
        let proved = self.prove_key(request.get_ref());
        Ok(Response::new(proved.unwrap_or_else(reply::Refused::into_prove)))
    }

    async fn forget(&self, request: Request<ForgetRequest>) -> Reply<ForgetReply> {
        let (error, was_cached) = match self.forget_key(request.get_ref()) {
            Ok(was_cached) => (ErrorCode::Ok, was_cached),
            Err(refused) => (refused.code, false),
        };
        Ok(Response::new(ForgetReply { error: error.into(), was_cached }))
    }

    async fn force_refresh(
        &self,
        request: Request<ForceRefreshRequest>,
    ) -> Reply<ForceRefreshReply> {
        let done = self.refresh_key(request.get_ref());
        let refused = done.err().unwrap_or(ErrorCode::Ok.into());
        let (error, dek_id) = (refused.code.into(), refused.dek_id_bytes());
        Ok(Response::new(ForceRefreshReply { error, dek_id }))
    }

    async fn reseal(&self, request: Request<ResealRequest>) -> Reply<ResealReply> {
        let sealed = self.reseal_key(request.get_ref());
        Ok(Response::new(sealed.unwrap_or_else(reply::Refused::into_reseal)))
    }

    async fn configure(&self, request: Request<CacheSettings>) -> Reply<ConfigureReply> {
        // Work over the whole cache, which no worker should wait for.
        let (enclave, settings) = (Arc::clone(&self.enclave), request.into_inner());
        let work = async move { reply::configured(&enclave, settings) };
        let done = self.enclave.control.spawn(work).await;
        done.map(Response::new).map_err(|_| Status::internal("control"))
    }

    async fn state(&self, _: Request<StateRequest>) -> Reply<StateReply> {
        Ok(Response::new(reply::state(&self.enclave, boot_ms())))
    }

    async fn health(&self, _: Request<HealthRequest>) -> Reply<HealthReply> {
        Ok(Response::new(reply::health(&self.enclave, boot_ms())))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Reply<StatsReply> {
        Ok(Response::new(reply::stats(&self.enclave, boot_ms())))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Reply<DrainReply> {
        self.enclave.draining.send_if_modified(|draining| !std::mem::replace(draining, true));
        Ok(Response::new(DrainReply { error: ErrorCode::Ok.into() }))
    }
}

impl From<KeyError> for reply::Refused {
    fn from(error: KeyError) -> Self {
        let dek_id = match error {
            KeyError::UnlockRequired(dek_id) => Some(dek_id),
            _ => None,
        };
        Self { code: reply::key_code(error), dek_id }
    }
}
