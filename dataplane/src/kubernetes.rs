//! The member's part in Kubernetes: it follows its SignerRing and reports on its enclave in its
//! EnclaveAllocation, with the pod's own service account. Signing needs none of it: while the API
//! server is away, the last good ring is served on.

mod report;
mod ring;

use kube::Client;
use tokio::sync::watch;

use crate::config::Member;
use crate::router::membership::Memberships;
use crate::status::MemberStatus;

/// Environment variable with the UID of the pod: a report of an earlier pod counts for nothing.
pub const POD_UID: &str = "POD_UID";

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
    memberships: Memberships,
}

impl Kubernetes {
    /// Connects with the pod's own service account.
    ///
    /// # Errors
    /// There is none.
    pub async fn in_pod(
        member: Member,
        status: watch::Receiver<MemberStatus>,
        memberships: Memberships,
    ) -> Result<Self, KubernetesError> {
        let client =
            Client::try_default().await.map_err(|e| KubernetesError::Client(Box::new(e)))?;
        let pod_uid = std::env::var(POD_UID).unwrap_or_default();
        Ok(Self::new(client, member, pod_uid, status, memberships))
    }

    /// With a client and a pod UID of the caller's choice.
    pub fn new(
        client: Client,
        member: Member,
        pod_uid: String,
        status: watch::Receiver<MemberStatus>,
        memberships: Memberships,
    ) -> Self {
        Self { client, member, pod_uid, status, memberships }
    }

    /// Follows the ring and reports, the epoch that is served included, for ever.
    pub async fn run(self) {
        let Self { client, member, pod_uid, status, memberships } = self;
        let reporter = report::Reporter::new(client.clone(), &member, pod_uid);
        tokio::join!(ring::follow(client, &member, memberships), reporter.run(status));
    }
}
