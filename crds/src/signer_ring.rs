//! `SignerRing`: who signs, for all dataplanes of a pool.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Measurement;

/// Members of a pool at one epoch. The membership file of a dataplane without Kubernetes has the
/// same shape.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "sigil.dev",
    version = "v1alpha1",
    kind = "SignerRing",
    namespaced,
    category = "sigil",
    derive = "PartialEq",
    doc = "Members of a SignerPool at one epoch. Written by the operator, watched by every dataplane.",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "States", type_ = "string", json_path = ".spec.members[*].state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.epoch >= oldSelf.epoch").message(
        "epoch must not go back: dataplanes refuse an older ring; write the next epoch instead"
    ),
    validation = Rule::new("self.members.all(m, !has(m.measurements) || m.measurements < size(self.measurements))").message(
        "members[].measurements must be an index into measurements"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SignerRingSpec {
    /// Pool that the ring belongs to.
    #[schemars(length(min = 1, max = 63))]
    pub pool: String,
    /// Number of this membership; it only grows.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// Measurements that members may have; each member names one by its index. At most 8.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub measurements: Vec<Measurement>,
    /// Members by slot. At most 512.
    #[serde(default)]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    pub members: Vec<RingMember>,
}

/// One member: an enclave in the ring.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RingMember {
    /// Slot, 0 to 511; stays when the node is replaced.
    #[schemars(range(min = 0, max = 511))]
    pub slot: i32,
    /// Node that holds the member now.
    #[schemars(length(max = 253))]
    pub node: String,
    /// `host:port` where other members reach it; empty while it serves its own node only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 259))]
    pub address: String,
    /// Whether it takes requests.
    pub state: MemberState,
    /// Share of keys relative to the other members, 0 to 1000; 100 is usual.
    #[schemars(range(min = 0, max = 1000))]
    pub weight: i32,
    /// Time over which the share grows after joining, in seconds, 0 to 86400.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub ramp_seconds: i32,
    /// Index into `measurements` of what its enclave proved; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 7))]
    pub measurements: Option<i32>,
}

/// Whether a member takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MemberState {
    /// It is being made ready and takes none yet.
    Joining,
    /// It takes requests.
    Active,
    /// It finishes what it has and takes no more.
    Draining,
}
