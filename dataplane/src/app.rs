//! What the sidecar does, face by face the same: create and sign, one screen each, over named phases.
//! HTTP and gRPC both end here; everything below is shared.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::attest::BirthVerifier;
use crate::error::Error;
use crate::failpoint;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::store::Records;
use crate::unlock::Unlocker;

mod create;
mod directory;
mod keys;
mod model;
mod refresh;
mod seldom;
mod sign;

use directory::Directory;
pub(crate) use model::{
    Birth, CreateRequest, Created, KeyInfo, KeyPage, SignRequest, Signed, checked_key_id,
    checked_keyspace,
};
pub(crate) use refresh::RefreshRequest;

/// Everything that requests of one worker thread need.
pub(crate) struct App {
    pub(crate) router: Router,
    pub(crate) records: Records,
    pub(crate) unlocker: Unlocker,
    pub(crate) births: Arc<BirthVerifier>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keyspaces: Arc<[String]>,
    directory: Directory,
    stored: create::Stored,
    /// For lines on keys whose DEK is locked.
    invalid: seldom::Seldom,
}

impl App {
    /// An application over one worker's router.
    pub(crate) fn new(
        router: Router,
        records: Records,
        unlocker: Unlocker,
        births: Arc<BirthVerifier>,
        metrics: Arc<Metrics>,
        keyspaces: Arc<[String]>,
    ) -> Self {
        Self {
            router,
            records,
            unlocker,
            births,
            metrics,
            keyspaces,
            directory: Directory::default(),
            stored: create::Stored::default(),
            invalid: seldom::Seldom::default(),
        }
    }

    /// Makes a key. It is acknowledged only when its record is durable, was read back, opened by the
    /// enclave, and its birth statement verified here.
    pub(crate) async fn create(&self, request: CreateRequest) -> Result<Created, Error> {
        let plan = self.plan_create(request)?;
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

    /// Signs 32 bytes. A key that the enclave does not hold is sent along once; a locked DEK is
    /// answered at once and unlocked behind the caller's back.
    pub(crate) async fn sign(&self, request: SignRequest) -> Result<Signed, Error> {
        let located = self.locate(request.key_id).await?;
        let mut answer = self.ask(&located, &request, bytes::Bytes::new()).await?;
        if sign::wants_blob(&answer) {
            let blob = self.blob(&located, request.key_id).await?;
            answer = self.ask(&located, &request, blob).await?;
        }
        self.signed(&located, &request, &answer)
    }
}

/// Unix time, ms.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
