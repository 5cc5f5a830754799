//! Where sealed keys are kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where sealed keys are kept.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[x_kube(validation = Rule::new("self.engine != 'embedded' || has(self.embedded)").message(
    "store.embedded is missing: with store.engine embedded it says how large the volume is and where it comes from"
))]
#[serde(rename_all = "camelCase")]
pub struct StoreSpec {
    /// `embedded`: a file on a volume of the one member.
    pub engine: StoreEngine,
    /// Settings of `embedded`. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedStore>,
}

/// What keeps the sealed keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreEngine {
    /// A file on a volume of the one member.
    Embedded,
}

/// The volume of an embedded store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddedStore {
    /// Size of the volume, in MiB, 16 to 1048576. A key takes about 1 KiB.
    #[serde(rename = "sizeMiB")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub size_mib: i32,
    /// Storage class of the claim; the cluster's default when absent, none when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Name of an existing PersistentVolume that the claim must bind to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume_name: Option<String>,
    /// What happens to the claim when the pool is deleted. `Retain` (also when absent): it stays,
    /// and a pool of the same name finds its keys again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// What happens to keys when their pool is deleted: with `Retain` (also when absent) they stay, and
/// a pool of the same name finds them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
}
