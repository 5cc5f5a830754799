//! What the members' dataplanes report. The first member with a flaw is the reason.

mod keys;
mod store;

use sigil_crds::{ConditionType, EnclaveStatus, Launcher, MemberState};

use super::View;
use crate::conditions::{Finding, Reason};
use crate::signer_pool::members::{Member, NSM_SOURCE};

pub(super) use keys::keys_unlocked;
pub(super) use store::store_durable;

/// Why nothing is known of a member.
fn silent(member: &Member<'_>, condition: ConditionType) -> Option<Finding> {
    let slot = member.slot;
    if member.pod.is_none() {
        let message = format!("member {slot} has no pod");
        return Some(Finding::unknown(condition, Reason::NoPod, message));
    }
    if member.report.is_some() {
        return None;
    }
    Some(match member.waiting_container() {
        Some(why) => {
            Finding::no(condition, Reason::ContainerNotStarting, format!("member {slot}: {why}"))
        }
        None => Finding::unknown(
            condition,
            Reason::NotReported,
            format!("the dataplane of member {slot} has not reported yet"),
        ),
    })
}

/// What the dataplane says about what is wrong, as the end of a sentence.
fn said(report: &EnclaveStatus) -> String {
    report.message.as_deref().map_or_else(String::new, |message| format!(": {message}"))
}

/// The first member for which `flaw` finds something; `Ok` with all reports if none has one.
fn first_flaw(
    view: &View<'_>,
    condition: ConditionType,
    flaw: impl Fn(&Member<'_>, &EnclaveStatus) -> Option<Finding>,
) -> Option<Finding> {
    if let Some(finding) = view.problem(condition).or_else(|| view.scaled_to_zero(condition)) {
        return Some(finding);
    }
    view.wanted().find_map(|member| {
        silent(member, condition).or_else(|| member.report.and_then(|report| flaw(member, report)))
    })
}

pub(super) fn enclaves_attested(view: &View<'_>) -> Finding {
    let type_ = ConditionType::EnclavesAttested;
    let flaw = |member: &Member<'_>, report: &EnclaveStatus| {
        let slot = member.slot;
        let said = said(report);
        if !report.running {
            let message = format!("the enclave of member {slot} does not run{said}");
            return Some(Finding::no(type_, Reason::EnclaveNotRunning, message));
        }
        (!report.attested).then(|| {
            let message =
                format!("the enclave of member {slot} did not prove the pool's measurements{said}");
            Finding::no(type_, Reason::AttestationFailed, message)
        })
    };
    first_flaw(view, type_, flaw).unwrap_or_else(|| {
        Finding::yes(type_, Reason::Attested, "every enclave proved the pool's measurements")
    })
}

pub(super) fn ring_stable(view: &View<'_>) -> Finding {
    let type_ = ConditionType::RingStable;
    if let Some(finding) = view.scaled_to_zero(type_) {
        return finding;
    }
    let Some(ring) = &view.observed.ring else {
        return Finding::unknown(type_, Reason::NoPod, "there is no ring yet");
    };
    let epoch = ring.spec.epoch;
    let count = |state| ring.spec.members.iter().filter(|member| member.state == state).count();
    let (joining, draining) = (count(MemberState::Joining), count(MemberState::Draining));
    let late = view.wanted().find(|member| !member.has_acknowledged(epoch));
    if draining > 0 {
        let message = format!("epoch {epoch}: {draining} leaving");
        Finding::no(type_, Reason::MembersDraining, message)
    } else if joining > 0 {
        let message = format!("epoch {epoch}: {joining} being made ready");
        Finding::no(type_, Reason::MembersJoining, message)
    } else if let Some(member) = late {
        let served = member.report.map_or(0, |report| report.ring_epoch);
        let message = format!("member {} serves epoch {served}, not {epoch}", member.slot);
        Finding::no(type_, Reason::Unacknowledged, message)
    } else {
        let message = format!("every dataplane serves epoch {epoch}");
        Finding::yes(type_, Reason::Acknowledged, message)
    }
}

pub(super) fn rng_healthy(view: &View<'_>) -> Finding {
    let type_ = ConditionType::RngHealthy;
    let launcher = view.pool.spec.enclave.launcher();
    let flaw = |member: &Member<'_>, report: &EnclaveStatus| {
        let slot = member.slot;
        if !report.running {
            let message = format!("the enclave of member {slot} does not run");
            return Some(Finding::unknown(type_, Reason::EnclaveNotRunning, message));
        }
        let Some(source) = report.rng.as_deref() else {
            let message = format!("the enclave of member {slot} has not named its source");
            return Some(Finding::unknown(type_, Reason::NotReported, message));
        };
        (!member.rng_is_expected(launcher)).then(|| {
            let message = format!(
                "the enclave of member {slot} draws from {source} instead of {NSM_SOURCE} and \
                 uses no keys: keep its logs, cordon its node, delete the member's \
                 EnclaveAllocation so that it moves (docs/runbooks/rng.md)"
            );
            Finding::no(type_, Reason::UnexpectedSource, message)
        })
    };
    first_flaw(view, type_, flaw).unwrap_or_else(|| {
        if launcher == Launcher::Process {
            let message = "development enclaves draw from the kernel they run on";
            Finding::yes(type_, Reason::DevelopmentSource, message)
        } else {
            Finding::yes(type_, Reason::NsmHwrng, "every enclave draws from the NSM")
        }
    })
}

pub(super) fn trusted(view: &View<'_>) -> Finding {
    let type_ = ConditionType::Trusted;
    if let Some(finding) = view.problem(type_) {
        return finding;
    }
    let launcher = view.pool.spec.enclave.launcher();
    if !launcher.is_trusted() {
        let message = format!(
            "launcher {} protects nothing: whoever has the node has the keys; for development only",
            launcher.as_str()
        );
        return Finding::no(type_, Reason::DevelopmentLauncher, message);
    }
    if view.pool.spec.enclave.attestation_root.is_some() {
        let message = "enclave.attestationRoot replaces AWS's root: documents prove nothing";
        return Finding::no(type_, Reason::UntrustedRoot, message);
    }
    let flaw = |member: &Member<'_>, report: &EnclaveStatus| {
        let slot = member.slot;
        if !report.attested {
            let message = format!("the enclave of member {slot} is not attested");
            return Some(Finding::unknown(type_, Reason::NotAttested, message));
        }
        (!report.trusted).then(|| {
            let message = format!("the document of member {slot} does not chain to AWS's root");
            Finding::no(type_, Reason::UntrustedRoot, message)
        })
    };
    first_flaw(view, type_, flaw).unwrap_or_else(|| {
        Finding::yes(type_, Reason::Production, "launcher, root and images are those of production")
    })
}
