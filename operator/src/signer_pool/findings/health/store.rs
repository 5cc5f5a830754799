//! StoreDurable: the store is on a bound volume, and its dataplane can write to it.

use kube::ResourceExt;
use sigil_crds::{ConditionType, EnclaveStatus};

use super::{View, first_flaw};
use crate::conditions::{Finding, Reason};
use crate::signer_pool::members::Member;

const TYPE: ConditionType = ConditionType::StoreDurable;

pub(in super::super) fn store_durable(view: &View<'_>) -> Finding {
    if let Some(finding) = view.wanted().find_map(|member| claim_flaw(view, member)) {
        return finding;
    }
    let flaw = |member: &Member<'_>, report: &EnclaveStatus| {
        (!report.store_durable).then(|| {
            let message = format!(
                "member {} cannot write to its store: see the log of its container serve",
                member.slot
            );
            Finding::no(TYPE, Reason::StoreFailed, message)
        })
    };
    first_flaw(view, TYPE, flaw).unwrap_or_else(|| {
        let message = "what is acknowledged is on disk; claims stay when the pool goes";
        Finding::yes(TYPE, Reason::Durable, message)
    })
}

fn claim_flaw(view: &View<'_>, member: &Member<'_>) -> Option<Finding> {
    let claim = member.claim?;
    let name = claim.name_any();
    if member.claim_is_foreign(view.pool) {
        let message = format!(
            "claim {name} exists and has no label {}={}; delete it or give it the label",
            crate::names::POOL_LABEL,
            view.pool.name_any()
        );
        return Some(Finding::no(TYPE, Reason::ClaimNotOurs, message));
    }
    match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Bound") => None,
        Some("Lost") => {
            let message = format!("the volume of claim {name} is gone: restore a backup");
            Some(Finding::no(TYPE, Reason::ClaimLost, message))
        }
        _ => {
            let message =
                format!("claim {name} is not bound to a volume: see kubectl describe pvc {name}");
            Some(Finding::no(TYPE, Reason::ClaimPending, message))
        }
    }
}
