//! The volume of an embedded store. It has no owner: keys survive the pool.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use sigil_crds::{EmbeddedStore, SignerPool};

use crate::names::{Names, kept};

/// The claim of the member in `slot`.
pub fn volume_claim(pool: &SignerPool, store: &EmbeddedStore, slot: i32) -> PersistentVolumeClaim {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let size = Quantity(format!("{}Mi", store.size_mib));
    PersistentVolumeClaim {
        metadata: kept(pool, names.claim(slot), names.slot_labels(slot)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                limits: None,
            }),
            storage_class_name: store.storage_class_name.clone(),
            volume_name: store.volume_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
