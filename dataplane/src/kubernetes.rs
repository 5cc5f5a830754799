//! The member's part in Kubernetes: it follows its SignerRing and reports on its enclave in its
//! EnclaveAllocation, with the pod's own service account. Signing needs none of it: while the API
//! server is away, the last good ring is served on.

mod report;
mod ring;

use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::Member;
use crate::pool::backoff::{Backoff, random};
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

/// Between two tries to find the API server, first and at most.
const CONNECT_RETRY_MIN: Duration = Duration::from_secs(1);
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(60);

/// A client with the pod's own service account. Nothing is sent yet.
///
/// # Errors
/// The process does not run in a pod, or the account's files are not there yet.
pub async fn client() -> Result<Client, KubernetesError> {
    Client::try_default().await.map_err(|error| KubernetesError::Client(Box::new(error)))
}

/// The same, tried until there is one.
pub(crate) async fn connected() -> Client {
    let mut backoff = Backoff::new(CONNECT_RETRY_MIN, CONNECT_RETRY_MAX);
    loop {
        match client().await {
            Ok(client) => return client,
            Err(error) => tracing::error!(%error, "no report to Kubernetes yet"),
        }
        sleep(backoff.wait(random())).await;
    }
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
