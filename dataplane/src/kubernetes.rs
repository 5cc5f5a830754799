//! The member's part in Kubernetes: it follows its SignerRing and reports on its enclave in its
//! EnclaveAllocation, with the pod's own service account. Signing needs none of it: while the API
//! server is away, the last good ring is served on.

mod client;
mod report;
mod ring;

use kube::Client;
use tokio::sync::watch;

use crate::config::Member;
use crate::router::membership::Memberships;
use crate::status::MemberStatus;

pub(crate) use client::{client, connected};

/// Environment variable with the UID of the pod: a report of an earlier pod counts for nothing.
pub const POD_UID: &str = "POD_UID";

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
