//! The end of a pool: out of the ring, pods, then the finalizer. Everything owned goes with the
//! pool; claims stay, so that a pool of the same name finds its keys.

use super::member::{is_drained, plan_pod_deletion};
use super::{Action, DELETE_TIMEOUT_S, Plan, Scene, ring};
use crate::conditions::Reason;
use crate::names::FINALIZER;
use kube::ResourceExt;

pub(super) fn plan_deletion(scene: &Scene<'_>, plan: &mut Plan) {
    if !scene.pool.finalizers().iter().any(|held| held == FINALIZER) {
        return plan.wait(Reason::Deleting, "other finalizers hold the pool");
    }
    // Nothing can be made or asked in a namespace that is going away; its pods go with it.
    if scene.observed.namespace_terminating || scene.observed.pods.is_empty() {
        return plan.actions.push(Action::RemoveFinalizer);
    }
    if age_s(scene) >= DELETE_TIMEOUT_S {
        plan.wait(
            Reason::Deleting,
            "pods did not end in time and are left to the garbage collector",
        );
        return plan.actions.push(Action::RemoveFinalizer);
    }
    ring::plan_empty_ring(scene, plan);
    for member in &scene.members {
        if member.pod.is_some() && !member.is_terminating() && is_drained(scene, member) {
            plan_pod_deletion(member, "the pool is being deleted", plan);
        }
    }
    plan.wait(Reason::Deleting, "pods finish what they have");
}

/// For how long the pool has been going away, in seconds.
fn age_s(scene: &Scene<'_>) -> i64 {
    let since = scene.pool.metadata.deletion_timestamp.as_ref();
    since.map_or(0, |time| scene.observed.now.as_second() - time.0.as_second())
}
