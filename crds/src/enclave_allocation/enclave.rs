//! What a dataplane reports about its enclave.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Measurement;

/// What a dataplane reports about its enclave. The word of the node: it decides routing and
/// conditions, and is no proof towards anybody (`ctl verify-key` is).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "each is an observation of its own")]
pub struct EnclaveStatus {
    /// UID of the pod that reports; the report of an earlier pod counts for nothing.
    #[schemars(length(max = 64))]
    pub pod_uid: String,
    /// The enclave runs and is claimed.
    pub running: bool,
    /// Random id of the enclave's boot, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub boot_id: Option<String>,
    /// Its attestation document verified against the pool's measurements.
    pub attested: bool,
    /// The document's chain ends in AWS's root and the image is not a development image.
    pub trusted: bool,
    /// Measurements that the enclave proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurements: Option<Measurement>,
    /// Address of the enclave, for example `vsock://16:5000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub address: Option<String>,
    /// Source of randomness that the enclave reports, for example `nsm-hwrng`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rng: Option<String>,
    /// The store answered and holds what was written before it was acknowledged.
    pub store_durable: bool,
    /// Epoch of the ring that is served; 0 before the first.
    #[schemars(range(min = 0))]
    pub ring_epoch: i64,
    /// Each keyspace of the pool. At most 64.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub keyspaces: Vec<KeyspaceStatus>,
    /// What is wrong, in one CamelCase word; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What is wrong, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// One keyspace on one member.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyspaceStatus {
    /// Name of the keyspace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A data encryption key of it is installed, so keys can be created and opened.
    pub unlocked: bool,
    /// Why it is not, when KMS is the reason: `denied`, `throttled`, `timeout`, `kms_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub kms_error: Option<String>,
    /// When a test key was last created, opened, used and forgotten here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub test_signature_time: Option<Time>,
}

// === impl EnclaveStatus ===

impl EnclaveStatus {
    /// Whether two reports say the same, whatever the time of the test signatures.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.without_times() == other.without_times()
    }

    fn without_times(&self) -> Self {
        let mut copy = self.clone();
        for keyspace in &mut copy.keyspaces {
            keyspace.test_signature_time = None;
        }
        copy
    }
}
