//! `EnclaveAllocation`: what one member needs on its node, and what is there.

mod enclave;

pub use enclave::{EnclaveStatus, KeyspaceStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Launcher};

/// What one member of a pool needs on its node.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "sigil.dev",
    version = "v1alpha1",
    kind = "EnclaveAllocation",
    namespaced,
    shortname = "ea",
    category = "sigil",
    status = "EnclaveAllocationStatus",
    derive = "PartialEq",
    doc = "What one member of a SignerPool needs on its node, and what is there. Written by the operator.",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="AllocationReady")].status"#
    ),
    printcolumn(name = "Attested", type_ = "boolean", json_path = ".status.enclave.attested"),
    printcolumn(name = "Trusted", type_ = "boolean", json_path = ".status.enclave.trusted"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.enclave.ringEpoch"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.pool == oldSelf.pool && self.slot == oldSelf.slot && self.node == oldSelf.node").message(
    "pool, slot and node cannot be changed: delete the EnclaveAllocation and let the operator make another"
))]
#[serde(rename_all = "camelCase")]
pub struct EnclaveAllocationSpec {
    /// Pool that the member belongs to.
    #[schemars(length(min = 1, max = 63))]
    pub pool: String,
    /// Slot of the member in the pool, 0 to 511; a replacement node takes over the slot.
    #[schemars(range(min = 0, max = 511))]
    pub slot: i32,
    /// Node that the member is bound to.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// What starts the enclave.
    pub launcher: Launcher,
    /// Number of vCPUs of the enclave, 1 to 512.
    #[schemars(range(min = 1, max = 512))]
    pub cpu_count: i32,
    /// Memory of the enclave, in MiB, 64 to 4194304.
    #[serde(rename = "memoryMiB")]
    #[schemars(range(min = 64, max = 4_194_304))]
    pub memory_mib: i32,
}

/// What is there. Each part has one writer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnclaveAllocationStatus {
    /// Written by the operator: conditions by type. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Written by the member's dataplane: its enclave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enclave: Option<EnclaveStatus>,
}
