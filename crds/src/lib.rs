//! Kubernetes types of Sigil, group `sigil.dev`, version `v1alpha1`.
//!
//! ```text
//! SignerPool ──> EnclaveAllocation (one a member) <── status.enclave (dataplane)
//!     └────────> SignerRing (one a pool) ──> dataplanes
//! ```
//!
//! A person writes [`SignerPool`]; the operator alone writes the specs of the other two. Every list
//! and string has an upper bound, so that the cost of the CEL rules is bounded and the API server
//! accepts them. `crdgen` writes `crds/generated/*.yaml` from these types.
#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each struct inside a function")]
#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]

mod condition;
mod enclave_allocation;
pub mod generate;
mod schema;
mod signer_pool;
mod signer_ring;

pub use condition::{Condition, ConditionStatus, ConditionType};
pub use enclave_allocation::{
    EnclaveAllocation, EnclaveAllocationSpec, EnclaveAllocationStatus, EnclaveStatus,
    KeyspaceStatus,
};
pub use signer_pool::{
    CpuSelection, DataplaneResources, DataplaneSpec, DeletionPolicy, EffectiveSettings,
    EmbeddedStore, EnclaveSpec, KeyspaceSpec, KmsSpec, Launcher, Measurement, NodesSpec,
    RingStatus, SignerPool, SignerPoolSpec, SignerPoolStatus, StoreEngine, StoreSpec, Toleration,
    TolerationEffect, TolerationOperator,
};
pub use signer_ring::{MemberState, RingMember, SignerRing, SignerRingSpec};

/// API group of all types.
pub const GROUP: &str = "sigil.dev";

/// API version of all types.
pub const VERSION: &str = "v1alpha1";
