//! The pod of one member: the launcher as native sidecar, and `serve`.

mod containers;
mod placement;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, LocalObjectReference, PersistentVolumeClaimVolumeSource, Pod,
    PodSecurityContext, PodSpec, SeccompProfile, Volume,
};
use kube::ResourceExt;
use sigil_crds::{EnclaveAllocation, SignerPool};

use crate::names::{Names, TEMPLATE_HASH, owned, plain_owner};
use crate::signer_pool::validate::ValidPool;

/// User and group of both containers: the hand-off checks that its peer has the same.
const USER: i64 = 65532;
/// Time for requests in flight and the last commit of the store, in seconds.
const GRACE_S: i64 = 30;
const SETTINGS_VOLUME: &str = "settings";
const STORE_VOLUME: &str = "store";

/// The pod of the member that `allocation` binds to a node.
pub fn signer_pod(pool: &SignerPool, valid: &ValidPool, allocation: &EnclaveAllocation) -> Pod {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let slot = allocation.spec.slot;
    let mut metadata = owned(pool, names.member(slot), names.slot_labels(slot));
    metadata.owner_references.get_or_insert_default().extend(plain_owner(allocation));
    metadata.annotations = Some([(TEMPLATE_HASH.to_owned(), valid.template_hash.clone())].into());
    let pull_secrets = &pool.spec.dataplane.image_pull_secrets;
    Pod {
        metadata,
        spec: Some(PodSpec {
            affinity: Some(placement::affinity(pool, &allocation.spec.node)),
            tolerations: Some(placement::tolerations(pool)),
            init_containers: Some(vec![containers::launcher(pool)]),
            containers: vec![containers::serve(pool)],
            volumes: Some(volumes(names, slot)),
            service_account_name: Some(valid.service_account_name.clone()),
            image_pull_secrets: (!pull_secrets.is_empty()).then(|| {
                pull_secrets
                    .iter()
                    .map(|name| LocalObjectReference { name: name.clone() })
                    .collect()
            }),
            security_context: Some(security_context()),
            termination_grace_period_seconds: Some(GRACE_S),
            enable_service_links: Some(false),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn volumes(names: Names<'_>, slot: i32) -> Vec<Volume> {
    vec![
        Volume {
            name: SETTINGS_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names.settings(slot),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: STORE_VOLUME.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: names.claim(slot),
                read_only: None,
            }),
            ..Volume::default()
        },
    ]
}

fn security_context() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}
