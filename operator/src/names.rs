//! Names, labels and owners of everything that the operator makes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use sigil_crds::{EnclaveAllocation, SignerPool};

/// Field manager, event source and lease name.
pub const MANAGER: &str = "sigil-operator";

/// Held on a pool until its pods are gone.
pub const FINALIZER: &str = "sigil.dev/pool";

/// Label with the pool's name.
pub const POOL_LABEL: &str = "sigil.dev/pool";

/// Label with the member's slot.
pub const SLOT_LABEL: &str = "sigil.dev/slot";

/// Annotation of a pod: hash over everything that it was made from.
pub const TEMPLATE_HASH: &str = "sigil.dev/template-hash";

/// Annotation of a ring: when its epoch began, RFC 3339.
pub const EPOCH_TIME: &str = "sigil.dev/epoch-time";

/// ConfigMap beside the operator that names measurements by image reference.
pub const MEASUREMENTS_CONFIG_MAP: &str = "sigil-measurements";

/// Names of the objects of one pool.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pool: &'a str,
}

// === impl Names ===

impl<'a> Names<'a> {
    /// Names of the objects of `pool`.
    pub fn new(pool: &'a str) -> Self {
        Self { pool }
    }

    /// EnclaveAllocation and pod of a slot.
    pub fn member(self, slot: i32) -> String {
        format!("{}-{slot}", self.pool)
    }

    /// ConfigMap with the settings of a slot's dataplane.
    pub fn settings(self, slot: i32) -> String {
        format!("{}-{slot}-settings", self.pool)
    }

    /// Claim with the embedded store of a slot.
    pub fn claim(self, slot: i32) -> String {
        format!("{}-{slot}-store", self.pool)
    }

    /// Service account, role and binding of the pods.
    pub fn service_account(self) -> String {
        format!("{}-signer", self.pool)
    }

    /// SignerRing and PodDisruptionBudget.
    pub fn ring(self) -> String {
        self.pool.to_owned()
    }

    /// Labels of every object of the pool.
    pub fn labels(self) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/name", "sigil-signer"),
            ("app.kubernetes.io/managed-by", MANAGER),
            (POOL_LABEL, self.pool),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Labels of the objects of one slot.
    pub fn slot_labels(self, slot: i32) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(SLOT_LABEL.to_owned(), slot.to_string());
        labels
    }

    /// The pods of the pool, for budgets, anti-affinity and the scale subresource.
    pub fn selector(self) -> BTreeMap<String, String> {
        BTreeMap::from([(POOL_LABEL.to_owned(), self.pool.to_owned())])
    }
}

/// Metadata of an object that the pool owns and that goes with it.
pub fn owned(pool: &SignerPool, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..kept(pool, name, labels)
    }
}

/// Metadata of an object that survives the pool.
pub fn kept(pool: &SignerPool, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: pool.namespace(),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// The allocation as a plain owner: the pod goes with it, but the pool stays the controller.
pub fn plain_owner(allocation: &EnclaveAllocation) -> Option<OwnerReference> {
    allocation.owner_ref(&())
}

/// The slot that an object belongs to, by its label.
pub fn slot_of(labels: &BTreeMap<String, String>) -> Option<i32> {
    labels.get(SLOT_LABEL)?.parse().ok()
}
