//! Writes what was found, and tells of every transition. Only when something other than time
//! changed: a status that is written on every pass is a loop.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use sigil_crds::{
    Condition, ConditionStatus, ConditionType, EnclaveAllocation, MemberState, RingStatus,
    SignerPool, SignerPoolStatus,
};

use super::apply::Applied;
use super::findings::{findings, member_allocation};
use super::members::members;
use super::observe::Observed;
use super::validate::{Verdict, desired_replicas};
use super::{Context, PassError};
use crate::conditions::{Reason, say_the_same, stamp};
use crate::names::{MANAGER, Names, POOL_LABEL};
use crate::outcome::Outcome;
use crate::runtime::events::Severity;

const HTTP_NOT_FOUND: u16 = 404;

/// Writes the status of the pool and its allocations, and ends the pass.
///
/// # Errors
/// The failure of `apply`, or of the write itself.
pub async fn write(
    context: &Context,
    pool: &SignerPool,
    verdict: &Verdict,
    observed: &Observed,
    applied: Applied,
) -> Result<Outcome, PassError> {
    let Applied { plan, done, failure } = applied;
    if plan.lets_go() && failure.is_none() {
        return Ok(Outcome::Applied);
    }
    let failure_text = failure.as_ref().map(ToString::to_string);
    let wanted = build(pool, verdict, observed, failure_text.as_deref());
    write_pool(context, pool, &wanted).await?;
    write_allocations(context, pool, observed).await?;
    match failure {
        Some(error) => Err(error),
        None if matches!(verdict, Verdict::Blocked(_)) => Ok(Outcome::Blocked),
        None if done > 0 => Ok(Outcome::Applied),
        None if !plan.waiting_on.is_empty() => Ok(Outcome::Waiting),
        None => Ok(Outcome::Skipped),
    }
}

/// The whole status. Pure.
pub fn build(
    pool: &SignerPool,
    verdict: &Verdict,
    observed: &Observed,
    failure: Option<&str>,
) -> SignerPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation.unwrap_or_default();
    let found = findings(pool, verdict, observed, failure);
    let effective = match verdict {
        Verdict::Valid(valid) => Some(valid.effective.clone()),
        Verdict::Blocked(_) => None,
    };
    SignerPoolStatus {
        observed_generation: generation,
        conditions: stamp(&found, &before.conditions, generation, observed.now),
        replicas: i32::try_from(observed.pods.len()).unwrap_or(i32::MAX),
        desired_replicas: desired_replicas(pool),
        selector: format!("{POOL_LABEL}={}", pool.name_any()),
        ring: ring_status(pool, observed),
        effective,
    }
}

fn ring_status(pool: &SignerPool, observed: &Observed) -> Option<RingStatus> {
    let ring = observed.ring.as_ref()?;
    let count = |state: Option<MemberState>| {
        let all = ring.spec.members.iter();
        let counted = all.filter(|member| state.is_none_or(|state| member.state == state)).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    };
    let acknowledged =
        members(pool, observed).iter().filter(|one| one.has_acknowledged(ring.spec.epoch)).count();
    Some(RingStatus {
        name: ring.name_any(),
        epoch: ring.spec.epoch,
        members: count(None),
        active: count(Some(MemberState::Active)),
        joining: count(Some(MemberState::Joining)),
        draining: count(Some(MemberState::Draining)),
        acknowledged: i32::try_from(acknowledged).unwrap_or(i32::MAX),
    })
}

/// Whether both say the same, whatever the times.
pub fn is_same(one: &SignerPoolStatus, other: &SignerPoolStatus) -> bool {
    let without =
        |status: &SignerPoolStatus| SignerPoolStatus { conditions: Vec::new(), ..status.clone() };
    without(one) == without(other) && say_the_same(&one.conditions, &other.conditions)
}

async fn write_pool(
    context: &Context,
    pool: &SignerPool,
    wanted: &SignerPoolStatus,
) -> Result<(), PassError> {
    let before = pool.status.clone().unwrap_or_default();
    if pool.status.is_some() && is_same(&before, wanted) {
        return Ok(());
    }
    let api = Api::<SignerPool>::namespaced(
        context.client.clone(),
        &pool.namespace().unwrap_or_default(),
    );
    let patch = json!({
        "apiVersion": SignerPool::api_version(&()),
        "kind": SignerPool::kind(&()),
        "metadata": {"name": pool.name_any()},
        "status": wanted,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    match api.patch_status(&pool.name_any(), &parameters, &Patch::Apply(patch)).await {
        // Gone between the read and now: there is nobody left to tell.
        Err(kube::Error::Api(status)) if status.code == HTTP_NOT_FOUND => return Ok(()),
        other => other.map_err(|error| PassError::Status(Box::new(error)))?,
    };
    for condition in &wanted.conditions {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        if old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason) {
            announce(context, pool, condition).await;
        }
    }
    Ok(())
}

async fn announce(context: &Context, pool: &SignerPool, condition: &Condition) {
    let passes = Reason::ALL.iter().any(|one| one.as_str() == condition.reason && one.passes());
    let bad = match condition.type_ {
        ConditionType::Stalled => condition.status == ConditionStatus::True,
        ConditionType::Reconciling => false,
        _ => condition.status == ConditionStatus::False && !passes,
    };
    let severity = if bad { Severity::Warning } else { Severity::Normal };
    let note = format!("{}={}: {}", condition.type_, condition.status.as_str(), condition.message);
    context.events.publish(pool, severity, &condition.reason, &note).await;
}

/// The operator's part of each allocation's status: its own condition, nobody else's.
async fn write_allocations(
    context: &Context,
    pool: &SignerPool,
    observed: &Observed,
) -> Result<(), PassError> {
    let namespace = pool.namespace().unwrap_or_default();
    let api = Api::<EnclaveAllocation>::namespaced(context.client.clone(), &namespace);
    for member in members(pool, observed) {
        let Some(allocation) = member.allocation else { continue };
        let before = allocation.status.clone().unwrap_or_default().conditions;
        let generation = allocation.metadata.generation.unwrap_or_default();
        let found = [member_allocation(pool, observed, &member)];
        let wanted = stamp(&found, &before, generation, observed.now);
        if say_the_same(&before, &wanted) {
            continue;
        }
        let name = Names::new(&pool.name_any()).member(member.slot);
        let patch = json!({
            "apiVersion": EnclaveAllocation::api_version(&()),
            "kind": EnclaveAllocation::kind(&()),
            "metadata": {"name": name},
            "status": {"conditions": wanted},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        match api.patch_status(&name, &parameters, &Patch::Apply(patch)).await {
            Err(kube::Error::Api(status)) if status.code == HTTP_NOT_FOUND => {}
            other => {
                other.map_err(|error| PassError::Status(Box::new(error)))?;
            }
        }
    }
    Ok(())
}
