//! What is observed about a pool.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeletionPolicy, Launcher, Measurement};
use crate::Condition;

/// What the operator observed about a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignerPoolStatus {
    /// `metadata.generation` that this status was derived from.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
    /// Conditions by type, all of them from the first pass on. At most 16.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Members that have a pod.
    #[serde(default)]
    #[schemars(range(min = 0, max = 512))]
    pub replicas: i32,
    /// Members that are wanted.
    #[serde(default)]
    #[schemars(range(min = 0, max = 512))]
    pub desired_replicas: i32,
    /// Label selector of the pool's pods, for the scale subresource.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub selector: String,
    /// The ring in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingStatus>,
    /// Values in force after defaults and look-ups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<EffectiveSettings>,
}

/// The ring in short; the SignerRing has all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RingStatus {
    /// Name of the SignerRing.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Newest epoch.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// Members of every state.
    #[schemars(range(min = 0, max = 512))]
    pub members: i32,
    /// Members that serve.
    #[schemars(range(min = 0, max = 512))]
    pub active: i32,
    /// Members that are about to serve.
    #[schemars(range(min = 0, max = 512))]
    pub joining: i32,
    /// Members that are about to leave.
    #[schemars(range(min = 0, max = 512))]
    pub draining: i32,
    /// Members that acknowledged the newest epoch.
    #[schemars(range(min = 0, max = 512))]
    pub acknowledged: i32,
}

/// Values in force after defaults and look-ups.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSettings {
    /// What starts the enclaves.
    pub launcher: Launcher,
    /// Enclave image.
    #[schemars(length(max = 512))]
    pub enclave_image: String,
    /// Dataplane image.
    #[schemars(length(max = 512))]
    pub dataplane_image: String,
    /// Measurements that members accept. At most 8.
    #[schemars(length(max = 8))]
    pub measurements: Vec<Measurement>,
    /// Region of KMS.
    #[schemars(length(max = 32))]
    pub kms_region: String,
    /// CPU of the launcher container, in thousandths of a core.
    #[schemars(range(min = 0))]
    pub launcher_cpu_milli: i32,
    /// Whole cores of the dataplane container.
    #[schemars(range(min = 0))]
    pub dataplane_cpu_count: i32,
    /// Service account of the pods.
    #[schemars(length(max = 253))]
    pub service_account_name: String,
    /// Claim that holds the embedded store, if that is the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub store_claim: Option<String>,
    /// What happens to keys when the pool is deleted.
    pub deletion_policy: DeletionPolicy,
    /// Hash over everything that pods are made from; a pod with another one is replaced.
    #[schemars(length(max = 64))]
    pub template_hash: String,
}
