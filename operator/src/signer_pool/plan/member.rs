//! What one member needs next. No surge on a node: the old pod is gone before the new one is made.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sigil_crds::{EmbeddedStore, MemberState};

use super::{ACKNOWLEDGE_TIMEOUT_S, Action, Plan, Scene, is_due};
use crate::conditions::Reason;
use crate::names::{EPOCH_TIME, Names};
use crate::resources;
use crate::signer_pool::members::Member;
use crate::signer_pool::placement;
use crate::signer_pool::validate::ValidPool;

/// What the member needs next.
pub(super) fn plan_member(
    scene: &Scene<'_>,
    valid: &ValidPool,
    member: &Member<'_>,
    plan: &mut Plan,
) {
    if !member.wanted {
        plan_surplus(scene, member, plan);
        return;
    }
    let node = match placement::place(scene.pool, scene.observed, member.slot) {
        Ok(node) => node,
        Err(why) => return plan.wait(why.reason, why.message),
    };
    plan_what_pods_read(scene, valid, member, &node, plan);
    let allocation = resources::enclave_allocation(scene.pool, member.slot, &node);
    if is_due(scene.pool, &allocation, member.allocation) {
        plan.actions.push(Action::ApplyAllocation(Box::new(allocation)));
    }
    plan_pod(scene, valid, member, plan);
}

/// Settings and volume.
fn plan_what_pods_read(
    scene: &Scene<'_>,
    valid: &ValidPool,
    member: &Member<'_>,
    node: &str,
    plan: &mut Plan,
) {
    let settings = resources::settings(scene.pool, valid, member.slot, node);
    let live = scene.observed.settings.iter().find(|found| found.name_any() == settings.name_any());
    if is_due(scene.pool, &settings, live) {
        plan.actions.push(Action::ApplySettings(Box::new(settings)));
    }
    let store: Option<&EmbeddedStore> = scene.pool.spec.store.embedded.as_ref();
    if let (Some(store), None) = (store, member.claim) {
        let claim = resources::volume_claim(scene.pool, store, member.slot);
        plan.actions.push(Action::CreateClaim(Box::new(claim)));
    }
}

fn plan_pod(scene: &Scene<'_>, valid: &ValidPool, member: &Member<'_>, plan: &mut Plan) {
    if member.claim_is_foreign(scene.pool) {
        let claim = Names::new(&scene.pool.name_any()).claim(member.slot);
        return plan.wait(Reason::ClaimNotOurs, format!("claim {claim} belongs to somebody else"));
    }
    let Some(pod) = member.pod else {
        // The pod names the allocation's UID as its owner.
        match member.allocation {
            Some(allocation) => {
                let pod = resources::signer_pod(scene.pool, valid, allocation);
                plan.actions.push(Action::CreatePod(Box::new(pod)));
            }
            None => plan.wait(Reason::NoPod, "the allocation is being made"),
        }
        return;
    };
    let name = pod.name_any();
    if member.is_terminating() {
        plan.wait(Reason::Replacing, format!("pod {name} is ending"));
    } else if member.has_failed() {
        plan_pod_deletion(member, "it has ended", plan);
    } else if member.is_elsewhere() {
        plan_pod_deletion(member, "the member is bound to another node now", plan);
    } else if !member.is_current(valid) {
        if is_drained(scene, member) {
            plan_pod_deletion(member, "the pool's settings have changed", plan);
        } else {
            plan.wait(Reason::MembersDraining, format!("pod {name} finishes what it has"));
        }
    } else if !member.is_healthy(scene.pool) {
        plan.wait(Reason::PodNotReady, format!("pod {name} is being made ready"));
    }
}

/// Out of the ring, then the pod, then the allocation. The claim stays.
fn plan_surplus(scene: &Scene<'_>, member: &Member<'_>, plan: &mut Plan) {
    if member.pod.is_none() {
        if let Some(allocation) = member.allocation {
            plan.actions.push(Action::DeleteAllocation { name: allocation.name_any() });
        }
    } else if member.is_terminating() || !is_drained(scene, member) {
        plan.wait(Reason::MembersDraining, format!("member {} is leaving", member.slot));
    } else {
        plan_pod_deletion(member, "the member is not wanted any more", plan);
    }
}

pub(super) fn plan_pod_deletion(member: &Member<'_>, why: &str, plan: &mut Plan) {
    if let Some((name, uid)) = member.pod.and_then(|pod| Some((pod.name_any(), pod.uid()?))) {
        plan.actions.push(Action::DeletePod { name, uid, why: why.to_owned() });
    }
}

/// Whether the member takes no requests any more: it never did, its dataplane acknowledged that it
/// is draining, or cannot be expected to.
pub(super) fn is_drained(scene: &Scene<'_>, member: &Member<'_>) -> bool {
    let Some(entry) = member.in_ring else { return true };
    let epoch = scene.observed.ring.as_ref().map_or(0, |ring| ring.spec.epoch);
    match entry.state {
        MemberState::Joining => true,
        MemberState::Active => false,
        MemberState::Draining => {
            member.has_acknowledged(epoch)
                || !member.pod_is_ready()
                || epoch_age_s(scene) >= ACKNOWLEDGE_TIMEOUT_S
        }
    }
}

/// For how long the newest epoch has been there, in seconds. The condition RingStable does not tell:
/// it may have been untrue for long before this epoch, which nobody had the time to acknowledge. A
/// ring without a readable annotation was changed by hand or is from an older version: its creation
/// bounds the wait, so that a member is not held for ever.
fn epoch_age_s(scene: &Scene<'_>) -> i64 {
    let Some(ring) = &scene.observed.ring else { return 0 };
    let annotated = ring.annotations().get(EPOCH_TIME).and_then(|time| time.parse().ok());
    let created = ring.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let since: Option<Timestamp> = annotated.or(created);
    since.map_or(0, |since| scene.observed.now.as_second() - since.as_second())
}
