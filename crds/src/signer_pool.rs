//! `SignerPool`: what a platform team applies.

mod dataplane;
mod enclave;
mod keys;
mod nodes;
mod status;
mod store;

pub use dataplane::{DataplaneResources, DataplaneSpec};
pub use enclave::{CpuSelection, EnclaveSpec, Launcher, Measurement};
pub use keys::{KeyspaceSpec, KmsSpec};
use kube::{CustomResource, KubeSchema};
pub use nodes::{NodesSpec, Toleration, TolerationEffect, TolerationOperator};
use serde::{Deserialize, Serialize};
pub use status::{EffectiveSettings, RingStatus, SignerPoolStatus};
pub use store::{DeletionPolicy, EmbeddedStore, StoreEngine, StoreSpec};

/// A pool of signers that share keyspaces, a store and KMS keys.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "sigil.dev",
    version = "v1alpha1",
    kind = "SignerPool",
    namespaced,
    shortname = "sp",
    category = "sigil",
    status = "SignerPoolStatus",
    derive = "PartialEq",
    doc = "A pool of secp256k1 signers whose keys exist in plaintext only inside enclaves.",
    validation = Rule::new("size(self.metadata.name) <= 40").message(
        "metadata.name must have at most 40 characters: pods and volumes are named after it; choose a shorter name"
    ),
    scale(
        spec_replicas_path = ".spec.nodes.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.ring.active"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.ring.epoch"),
    printcolumn(
        name = "Trusted", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Trusted")].status"#
    ),
    printcolumn(
        name = "Launcher", type_ = "string", json_path = ".status.effective.launcher",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!self.production || !has(self.enclave.launcher) || self.enclave.launcher == 'nitro'").message(
        "enclave.launcher must be nitro when production: true: process and qemu protect nothing; set launcher: nitro or production: false"
    ),
    validation = Rule::new("!self.production || !has(self.enclave.debug) || !self.enclave.debug").message(
        "enclave.debug must not be set when production: true: a debug enclave has all-zero measurements and a readable console; remove debug"
    ),
    validation = Rule::new("!self.production || !has(self.enclave.attestationRoot)").message(
        "enclave.attestationRoot must not be set when production: true: only AWS's root proves an enclave; remove it"
    ),
    validation = Rule::new("!self.production || self.enclave.image.matches('@sha256:[0-9a-f]{64}$')").message(
        "enclave.image must end in @sha256:DIGEST when production: true: a tag can move to an image that nobody measured"
    ),
    validation = Rule::new("!self.production || self.dataplane.image.matches('@sha256:[0-9a-f]{64}$')").message(
        "dataplane.image must end in @sha256:DIGEST when production: true: a tag can move to an image that nobody reviewed"
    ),
    validation = Rule::new("!self.production || !has(self.kms.credentialsSecretName)").message(
        "kms.credentialsSecretName must not be set when production: true: long-lived keys can be copied; give the service account a role (pod identity)"
    ),
    validation = Rule::new("self.store.engine != 'embedded' || !has(self.nodes.replicas) || self.nodes.replicas <= 1").message(
        "nodes.replicas must be 0 or 1 with store.engine embedded: a key made on one member must sign on every other, and an embedded store is one member's file"
    ),
    validation = Rule::new("self.store.engine != 'embedded' || !has(self.nodes.all) || !self.nodes.all").message(
        "nodes.all must not be true with store.engine embedded: a key made on one member must sign on every other, and an embedded store is one member's file; set nodes.replicas: 1"
    ),
    validation = Rule::new("has(self.store.embedded) == has(oldSelf.store.embedded) && (!has(self.store.embedded) || self.store.embedded == oldSelf.store.embedded)").message(
        "store.embedded cannot be changed: the keys are in the old volume; make a new pool and restore a backup there"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SignerPoolSpec {
    /// Refuses everything that is meant for development: launchers other than `nitro`, debug
    /// enclaves, images by tag, stored credentials, and attestation roots other than AWS's.
    #[serde(default)]
    pub production: bool,
    /// Where members run, and how many.
    pub nodes: NodesSpec,
    /// The enclave of each member.
    pub enclave: EnclaveSpec,
    /// The process beside each enclave that serves requests.
    pub dataplane: DataplaneSpec,
    /// How KMS is reached. Which key is used is pinned in the enclave image.
    #[serde(default)]
    pub kms: KmsSpec,
    /// Keyspaces that members unlock at start and watch. 1 to 64.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub keyspaces: Vec<KeyspaceSpec>,
    /// Where sealed keys are kept.
    pub store: StoreSpec,
}
