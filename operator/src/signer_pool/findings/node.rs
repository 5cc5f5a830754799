//! AllocationReady: the node of every member has what it needs, and the pod was accepted there.

use sigil_crds::{ConditionType, SignerPool};

use super::View;
use crate::conditions::{Finding, Reason};
use crate::signer_pool::members::Member;
use crate::signer_pool::observe::Observed;
use crate::signer_pool::placement;

const TYPE: ConditionType = ConditionType::AllocationReady;

pub(super) fn allocation_ready(view: &View<'_>) -> Finding {
    if let Some(finding) = view.problem(TYPE).or_else(|| view.scaled_to_zero(TYPE)) {
        return finding;
    }
    let mut nodes = Vec::new();
    for member in view.wanted() {
        let finding = match member.allocation {
            Some(_) => member_allocation(view.pool, view.observed, member),
            None => unbound(view, member),
        };
        if !finding.holds() {
            return finding;
        }
        nodes.push(finding.message);
    }
    Finding::yes(TYPE, Reason::NodesReady, nodes.join("; "))
}

/// Whether the node of a bound member has what it needs.
pub fn member_allocation(pool: &SignerPool, observed: &Observed, member: &Member<'_>) -> Finding {
    let Some(allocation) = member.allocation else {
        return Finding::no(TYPE, Reason::NoPod, "the member is bound to no node");
    };
    let node = &allocation.spec.node;
    if let Err(why) = placement::check_bound(pool, observed, member.slot, node) {
        let message = if why.reason == Reason::NodeGone {
            why.message
        } else {
            format!("node {node} {}", why.message)
        };
        return Finding::no(TYPE, why.reason, message);
    }
    if let Some(message) = member.unschedulable() {
        return Finding::no(
            TYPE,
            Reason::PodUnschedulable,
            format!("the scheduler says: {message}"),
        );
    }
    if member.has_failed() {
        let status = member.pod.and_then(|pod| pod.status.as_ref());
        let message = status.and_then(|status| status.message.as_deref()).unwrap_or("no message");
        return Finding::no(
            TYPE,
            Reason::PodUnschedulable,
            format!("the pod has ended: {message}"),
        );
    }
    let class = member.pod.and_then(|pod| pod.status.as_ref()?.qos_class.as_deref());
    if let Some(class) = class.filter(|class| *class != "Guaranteed") {
        return Finding::no(
            TYPE,
            Reason::QoSNotGuaranteed,
            format!(
                "the pod is {class}: something adds a container without limits; exempt the \
                 namespace from injection"
            ),
        );
    }
    Finding::yes(TYPE, Reason::NodesReady, format!("member {} is on {node}", member.slot))
}

fn unbound(view: &View<'_>, member: &Member<'_>) -> Finding {
    match placement::place(view.pool, view.observed, member.slot) {
        Ok(node) if view.valid().is_some() => Finding::unknown(
            TYPE,
            Reason::Creating,
            format!("member {} goes to {node}", member.slot),
        ),
        Ok(node) => Finding::unknown(
            TYPE,
            Reason::NoPod,
            format!("member {} would go to {node}; nothing is reserved yet", member.slot),
        ),
        Err(why) => Finding::no(TYPE, why.reason, why.message),
    }
}
