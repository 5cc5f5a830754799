//! What no plan may ever do, checked on every plan that any test produces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use sigil_crds::{MemberState, SignerPool};

use crate::signer_pool::observe::Observed;
use crate::signer_pool::ownership::is_ours;
use crate::signer_pool::plan::{Action, Plan};

pub(super) fn lint(pool: &SignerPool, observed: &Observed, plan: &Plan) {
    let mut rings = 0;
    let keeps_off = |live: Option<&ObjectMeta>, what: &str| {
        assert!(live.is_none_or(|live| is_ours(pool, live)), "{what}: somebody else's");
    };
    for action in &plan.actions {
        let what = action.describe();
        match action {
            Action::CreatePod(pod) => {
                let name = pod.name_any();
                assert!(observed.pods.iter().all(|old| old.name_any() != name), "{what}: surge");
                let owners = pod.owner_references();
                assert_eq!(owners.len(), 2, "{what}: pool and allocation own it");
                let controllers = owners.iter().filter(|one| one.controller == Some(true));
                assert_eq!(controllers.count(), 1, "{what}: one controller");
            }
            Action::DeletePod { uid, name, .. } => {
                let pod = observed.pods.iter().find(|pod| pod.uid().as_ref() == Some(uid));
                assert!(pod.is_some(), "{what}: not the pod that was seen");
                let slot: i32 = name.rsplit_once('-').unwrap().1.parse().unwrap();
                let ring = observed.ring.as_ref();
                let entry = ring.and_then(|ring| ring.spec.members.iter().find(|m| m.slot == slot));
                let active = entry.is_some_and(|entry| entry.state == MemberState::Active);
                let failed = pod.is_some_and(|pod| {
                    let status = pod.status.as_ref();
                    let phase = status.and_then(|status| status.phase.as_deref());
                    matches!(phase, Some("Failed" | "Succeeded"))
                });
                let moved = pod.is_some_and(|pod| {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                    observed
                        .allocations
                        .iter()
                        .any(|one| one.spec.slot == slot && Some(&one.spec.node) != node.as_ref())
                });
                assert!(!active || failed || moved, "{what}: it takes requests");
            }
            Action::ApplyServiceAccount(_) => {
                keeps_off(observed.service_account.as_ref().map(Resource::meta), &what);
            }
            Action::ApplyRole(_) => keeps_off(observed.role.as_ref().map(Resource::meta), &what),
            Action::ApplyRoleBinding(_) => {
                keeps_off(observed.role_binding.as_ref().map(Resource::meta), &what);
            }
            Action::ApplyBudget(_) => {
                keeps_off(observed.budget.as_ref().map(Resource::meta), &what);
            }
            Action::ApplySettings(map) => {
                let live = observed.settings.iter().find(|it| it.name_any() == map.name_any());
                keeps_off(live.map(Resource::meta), &what);
            }
            Action::ApplyRing(ring) => {
                keeps_off(observed.ring.as_ref().map(Resource::meta), &what);
                rings += 1;
                let before = observed.ring.as_ref().map_or(0, |ring| ring.spec.epoch);
                assert!(ring.spec.epoch > before, "{what}: the epoch does not grow");
            }
            Action::CreateClaim(claim) => {
                assert!(claim.owner_references().is_empty(), "{what}: keys would go with the pool");
            }
            Action::RemoveFinalizer => {
                assert!(pool.metadata.deletion_timestamp.is_some(), "{what}: not deleted");
            }
            _ => {}
        }
    }
    assert!(rings <= 1, "two rings in one plan");
}
