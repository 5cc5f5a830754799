//! What the sidecar does, face by face the same: create and sign, one screen each, over named phases.
//! HTTP and gRPC both end here; everything below is shared.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sigil_enclave_client::KeyId;

use crate::access::Verb;
use crate::admission::Slot;
use crate::attest::BirthVerifier;
use crate::audit::AuditLog;
use crate::error::Error;
use crate::failpoint;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::seldom::Seldom;
use crate::store::Records;
use crate::unlock::Unlocker;

mod asker;
mod create;
mod directory;
mod guards;
mod keys;
mod many;
mod model;
mod refresh;
mod route;
mod sign;

pub(crate) use asker::Asker;
use asker::Audited;
use directory::Directory;
pub(crate) use guards::Guards;
pub(crate) use many::{Done, Many};
pub(crate) use model::{
    Birth, CreateRequest, Created, KeyInfo, KeyPage, SignRequest, Signed, checked_batch_size,
    checked_key_id, checked_keyspace, refuse_tenant,
};
pub(crate) use refresh::RefreshRequest;
pub(crate) use route::Asked;

/// Everything that requests of one worker thread need.
pub(crate) struct App {
    pub(crate) router: Router,
    pub(crate) records: Records,
    pub(crate) unlocker: Unlocker,
    pub(crate) births: Arc<BirthVerifier>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keyspaces: Arc<[String]>,
    pub(crate) guards: Guards,
    /// Where this worker writes who did what.
    audit: AuditLog,
    directory: Directory,
    stored: create::Stored,
    /// For lines on keys whose DEK is locked.
    invalid: Seldom,
}

impl App {
    /// An application over one worker's router.
    pub(crate) fn new(
        router: Router,
        records: Records,
        unlocker: Unlocker,
        births: Arc<BirthVerifier>,
        metrics: Arc<Metrics>,
        (keyspaces, guards): (Arc<[String]>, Guards),
    ) -> Self {
        Self {
            router,
            records,
            unlocker,
            births,
            metrics,
            keyspaces,
            audit: guards.audit.log(),
            guards,
            directory: Directory::default(),
            stored: create::Stored::default(),
            invalid: Seldom::default(),
        }
    }

    /// Makes a key. It is acknowledged only when its record is durable, was read back, opened by the
    /// enclave, and its birth statement verified here. The request has its place in flight.
    async fn create_admitted(
        &self,
        audited: &mut Audited,
        request: CreateRequest,
        key_id: KeyId,
    ) -> Result<Created, Error> {
        let plan = Self::plan_create(request, key_id);
        audited.may(&plan.keyspace.as_str().into())?;
        audited.made(plan.key_id);
        failpoint::hit("create.accepted");
        if let Some(record) = self.created_before(&plan).await? {
            return self.acknowledge(&plan, record, true).await;
        }
        let sealed = self.seal(&plan).await?;
        failpoint::hit("create.sealed");
        self.store_document(&sealed).await?;
        failpoint::hit("create.document-stored");
        self.store_key(&plan, sealed).await?;
        failpoint::hit("create.key-stored");
        let record = self.read_back(&plan).await?;
        failpoint::hit("create.read-back");
        self.acknowledge(&plan, record, false).await
    }

    fn audited_sign(&self, asker: &Asker, request: &SignRequest) -> Audited {
        let audited = Audited::begin(&self.audit, asker, Verb::Sign);
        audited.key(request.key_id).digest(request.digest)
    }

    /// Signs 32 bytes. A key that the enclave does not hold is sent along once; a locked DEK is
    /// answered at once and unlocked behind the caller's back. The request has its place in flight.
    async fn sign_admitted(
        &self,
        audited: &mut Audited,
        request: &SignRequest,
    ) -> Result<Signed, Error> {
        let located = self.locate(request.key_id).await?;
        audited.may(&located.keyspace)?;
        let answer = self.ask(&located, request, bytes::Bytes::new()).await?;
        self.finish(&located, request, answer).await
    }

    /// Signs several digests, sent to the enclave together; each has its own result, in the order of the
    /// requests. What has no answer at its deadline is `DEADLINE_EXCEEDED`. A batch takes one place in
    /// flight, or is refused as a whole.
    pub(crate) async fn sign_batch(
        self: &Arc<Self>,
        asked: Asked<'_>,
        requests: Vec<Result<SignRequest, Error>>,
    ) -> Result<Vec<Result<Signed, Error>>, Error> {
        let _slot = self.guards.admission.enter().await?;
        let mut results: Vec<_> = requests.iter().map(|_| Err(Error::deadline())).collect();
        let mut many = Many::new(Arc::clone(self));
        for (tag, request) in (0..).zip(requests) {
            let request = request.map(|request| (request, Slot::free()));
            many.begin(asked.asker, tag, request, asked.deadline);
        }
        while let Some(Done { tag, result, .. }) = poll_fn(|cx| many.poll_done(cx)).await {
            if let Some(slot) = usize::try_from(tag).ok().and_then(|at| results.get_mut(at)) {
                *slot = result;
            }
        }
        Ok(results)
    }
}

/// Unix time, ms.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
