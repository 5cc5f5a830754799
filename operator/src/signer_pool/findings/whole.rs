//! Available, Ready, Reconciling, Stalled: the pool as a whole. The last three are what tools that
//! know kstatus read.

use sigil_crds::{ConditionStatus, ConditionType};

use super::View;
use crate::conditions::{Finding, Reason};
use crate::signer_pool::members::Member;
use crate::signer_pool::ownership::not_ours;

/// The four, in order.
pub(super) fn whole(view: &View<'_>, details: &[Finding]) -> Vec<Finding> {
    let ready = ready(view, details);
    let stalled = stalled(view, details);
    let reconciling = reconciling(view, &ready, &stalled);
    vec![available(view), ready, reconciling, stalled]
}

/// A member that takes requests now.
fn serves(view: &View<'_>, member: &Member<'_>) -> bool {
    member.is_active() && member.is_healthy(view.pool)
}

fn available(view: &View<'_>) -> Finding {
    let type_ = ConditionType::Available;
    if let Some(finding) = view.scaled_to_zero(type_) {
        return finding;
    }
    let floor = view.desired.saturating_sub(1).max(1);
    let active = view.members.iter().filter(|member| serves(view, member)).count();
    let message = format!("{active} of {} members active, the floor is {floor}", view.desired);
    if i32::try_from(active).is_ok_and(|active| active >= floor) {
        Finding::yes(type_, Reason::FloorActive, message)
    } else {
        Finding::no(type_, Reason::TooFewActive, message)
    }
}

fn ready(view: &View<'_>, details: &[Finding]) -> Finding {
    let type_ = ConditionType::Ready;
    if let Some(deleting) = deleting(view, type_) {
        return deleting;
    }
    if let Some(problem) = view.problems().first() {
        return Finding::no(type_, problem.reason, problem.message.clone());
    }
    if let Some(what) = not_ours(view.pool, view.observed) {
        return Finding::no(type_, Reason::ObjectNotOurs, what);
    }
    if let Some(outdated) = outdated(view) {
        return Finding::no(type_, Reason::Replacing, outdated);
    }
    // Whether the pool is trusted is for people to decide, not for readiness.
    let matters = |finding: &&Finding| finding.type_ != ConditionType::Trusted && !finding.holds();
    if let Some(flaw) = details.iter().filter(matters).min_by_key(|flaw| explains(flaw)) {
        let message = format!("{}: {}", flaw.type_, flaw.message);
        return Finding::no(type_, flaw.reason, message);
    }
    if let Some(member) = view.wanted().find(|member| !serves(view, member)) {
        let message = format!("the pod of member {} is not ready", member.slot);
        return Finding::no(type_, Reason::PodNotReady, message);
    }
    if let Some(finding) = view.scaled_to_zero(type_) {
        return finding;
    }
    Finding::yes(type_, Reason::AllMembersActive, format!("{} members active", view.desired))
}

/// The least explains most: what is known to be wrong before what is not known yet, and the ring,
/// which members join only when they are well, last.
fn explains(flaw: &Finding) -> u8 {
    match (flaw.type_, flaw.status) {
        (ConditionType::RingStable, _) => 2,
        (_, ConditionStatus::False) => 0,
        _ => 1,
    }
}

/// The spec is being carried out: members are made or replaced for it.
fn reconciling(view: &View<'_>, ready: &Finding, stalled: &Finding) -> Finding {
    let type_ = ConditionType::Reconciling;
    if let Some(deleting) = deleting(view, type_) {
        return Finding { status: ConditionStatus::True, ..deleting };
    }
    if let Some(failure) = view.failure {
        return Finding::yes(type_, Reason::ApplyFailed, failure);
    }
    if stalled.holds() {
        return Finding::no(
            type_,
            stalled.reason,
            "nothing more happens before the reason is gone",
        );
    }
    if let Some(outdated) = outdated(view) {
        return Finding::yes(type_, Reason::Replacing, outdated);
    }
    // A member that was active and is ill is no change of the spec.
    let making = view.wanted().find(|member| !member.is_active());
    if let Some(member) = making.filter(|_| !ready.holds()) {
        let message = format!("member {} is being made: {}", member.slot, ready.message);
        return Finding::yes(type_, Reason::Creating, message);
    }
    if view.members.iter().any(|member| !member.wanted) {
        return Finding::yes(type_, Reason::Deleting, "members that are not wanted leave");
    }
    Finding::no(type_, Reason::UpToDate, "the pool is as the spec says")
}

/// Reasons that do not pass by themselves.
fn stalled(view: &View<'_>, details: &[Finding]) -> Finding {
    const NEEDS_A_PERSON: [Reason; 10] = [
        Reason::NoMatchingNode,
        Reason::NodeTooSmall,
        Reason::NodeTainted,
        Reason::NodeGone,
        Reason::VolumeElsewhere,
        Reason::ReplicasUnsupported,
        Reason::ClaimNotOurs,
        Reason::ClaimLost,
        Reason::KmsDeniesMeasurement,
        Reason::QoSNotGuaranteed,
    ];
    let type_ = ConditionType::Stalled;
    if view.pool.metadata.deletion_timestamp.is_some() {
        return Finding::no(type_, Reason::Deleting, "the pool is being deleted");
    }
    if let Some(problem) = view.problems().first() {
        return Finding::yes(type_, problem.reason, problem.message.clone());
    }
    if let Some(what) = not_ours(view.pool, view.observed) {
        return Finding::yes(type_, Reason::ObjectNotOurs, what);
    }
    match details.iter().find(|one| !one.holds() && NEEDS_A_PERSON.contains(&one.reason)) {
        Some(flaw) => Finding::yes(type_, flaw.reason, flaw.message.clone()),
        None => Finding::no(type_, Reason::Progressing, "nothing waits for a person"),
    }
}

fn deleting(view: &View<'_>, type_: ConditionType) -> Option<Finding> {
    view.pool.metadata.deletion_timestamp.is_some().then(|| {
        Finding::no(type_, Reason::Deleting, "the pool is being deleted; claims with keys stay")
    })
}

/// Which pods were made from other settings, if any.
fn outdated(view: &View<'_>) -> Option<String> {
    let valid = view.valid()?;
    let slots: Vec<_> = view
        .wanted()
        .filter(|member| member.pod.is_some() && !member.is_current(valid))
        .map(|member| member.slot.to_string())
        .collect();
    (!slots.is_empty()).then(|| format!("members made from older settings: {}", slots.join(", ")))
}
