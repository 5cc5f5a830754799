//! The process beside each enclave.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The process beside each enclave that serves requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneSpec {
    /// Image with `sigil-dataplane`. With `production: true`, by digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// What the container gets; requests and limits are equal.
    #[serde(default)]
    pub resources: DataplaneResources,
    /// Service account of the pods. When absent, the operator makes one that may only read its
    /// ring and report on its allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Secrets that images are pulled with. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::object_names")]
    pub image_pull_secrets: Vec<String>,
}

/// What the dataplane's container gets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneResources {
    /// Whole cores, 1 to 512, exclusive where the node's CPU Manager is `static`.
    #[serde(default = "default_cpu_count")]
    #[schemars(range(min = 1, max = 512))]
    pub cpu_count: i32,
    /// Memory, in MiB, 64 to 1048576.
    #[serde(rename = "memoryMiB", default = "default_memory_mib")]
    #[schemars(range(min = 64, max = 1_048_576))]
    pub memory_mib: i32,
}

// === impl DataplaneResources ===

impl Default for DataplaneResources {
    fn default() -> Self {
        Self { cpu_count: default_cpu_count(), memory_mib: default_memory_mib() }
    }
}

fn default_cpu_count() -> i32 {
    1
}

fn default_memory_mib() -> i32 {
    256
}
