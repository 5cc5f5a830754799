//! The member's part in Kubernetes: it follows its SignerRing and reports on its enclave in its
//! EnclaveAllocation, with the pod's own service account. Signing needs none of it: while the API
//! server is away, the last good ring is served on.

mod report;
mod ring;

use std::sync::Arc;

use kube::Client;
use sigil_crds::SignerRingSpec;
use tokio::sync::watch;

use crate::config::Member;
use crate::status::MemberStatus;

/// Environment variable with the UID of the pod: a report of an earlier pod counts for nothing.
pub const POD_UID: &str = "POD_UID";

/// The newest ring that was accepted; `None` before the first.
pub type RingWatch = watch::Receiver<Option<Arc<SignerRingSpec>>>;

/// Why the member cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The process does not run in a pod.
    #[error("no way to the API server is known: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// The two tasks, ready to run.
pub struct Kubernetes {
    client: Client,
    member: Member,
    pod_uid: String,
    status: watch::Receiver<MemberStatus>,
    ring: watch::Sender<Option<Arc<SignerRingSpec>>>,
}

impl Kubernetes {
    /// Connects with the pod's own service account.
    ///
    /// # Errors
    /// There is none.
    pub async fn in_pod(
        member: Member,
        status: watch::Receiver<MemberStatus>,
    ) -> Result<Self, KubernetesError> {
        let client =
            Client::try_default().await.map_err(|e| KubernetesError::Client(Box::new(e)))?;
        let pod_uid = std::env::var(POD_UID).unwrap_or_default();
        Ok(Self::new(client, member, pod_uid, status))
    }

    /// With a client and a pod UID of the caller's choice.
    pub fn new(
        client: Client,
        member: Member,
        pod_uid: String,
        status: watch::Receiver<MemberStatus>,
    ) -> Self {
        Self { client, member, pod_uid, status, ring: watch::Sender::new(None) }
    }

    /// Follows the ring for whoever routes.
    pub fn ring(&self) -> RingWatch {
        self.ring.subscribe()
    }

    /// Follows the ring and reports, for ever.
    pub async fn run(self) {
        let Self { client, member, pod_uid, status, ring } = self;
        let seen = ring.subscribe();
        let reporter = report::Reporter::new(client.clone(), &member, pod_uid);
        tokio::join!(ring::follow(client, &member, ring), reporter.run(status, seen));
    }
}
