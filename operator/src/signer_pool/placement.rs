//! Which node holds a member. An ordered list of small checks; the first that fails is the reason.

mod volume;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use sigil_crds::SignerPool;

use super::observe::Observed;
use super::quantity;
use crate::conditions::Reason;
use crate::names::{Names, slot_of};
use crate::resources::needs;

/// Nodes that a message names at most; the others are counted.
const NODES_NAMED_MAX: usize = 4;
/// Taints that say the same as a node's conditions, which are checked before.
const CONDITION_TAINTS: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
];

/// Why no node holds a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaceable {
    /// Why.
    pub reason: Reason,
    /// Why, node by node, and what to do.
    pub message: String,
}

type Check = fn(&SignerPool, &Observed, i32, &Node) -> Result<(), Unplaceable>;

/// In the order in which a person would ask. Later ones are closer to success.
const CHECKS: [Check; 5] = [has_labels, is_ready, is_tolerated, is_large_enough, reaches_volume];

/// The node of the member in `slot`: the one that it is bound to, else the best free one.
///
/// # Errors
/// Why there is none.
pub fn place(pool: &SignerPool, observed: &Observed, slot: i32) -> Result<String, Unplaceable> {
    let bound = observed.allocations.iter().find(|allocation| allocation.spec.slot == slot);
    if let Some(allocation) = bound {
        let name = &allocation.spec.node;
        return observed
            .nodes
            .iter()
            .any(|node| node.name_any() == *name)
            .then(|| name.clone())
            .ok_or_else(|| node_gone(&allocation.name_any(), name));
    }
    choose(pool, observed, slot)
}

/// What is wrong with the node that a member is bound to, if anything. A cordon is not: it keeps
/// new pods away and leaves this one.
pub fn check_bound(
    pool: &SignerPool,
    observed: &Observed,
    slot: i32,
    node: &str,
) -> Result<(), Unplaceable> {
    let Some(node) = observed.nodes.iter().find(|found| found.name_any() == node) else {
        return Err(node_gone(&Names::new(&pool.name_any()).member(slot), node));
    };
    let checks: [Check; 4] = [has_labels, kubelet_is_ready, is_large_enough, reaches_volume];
    checks.iter().try_for_each(|check| check(pool, observed, slot, node))
}

fn choose(pool: &SignerPool, observed: &Observed, slot: i32) -> Result<String, Unplaceable> {
    let mut best: Option<String> = None;
    let mut refusals: Vec<(usize, String, Unplaceable)> = Vec::new();
    let taken = |name: &str| {
        observed.allocations.iter().any(|other| {
            other.spec.node == name && slot_of(other.labels()).is_some_and(|its| its != slot)
        })
    };
    for node in &observed.nodes {
        let name = node.name_any();
        if taken(&name) {
            continue;
        }
        let refused = CHECKS.iter().enumerate().find_map(|(rank, check)| {
            check(pool, observed, slot, node).err().map(|why| (rank, name.clone(), why))
        });
        match refused {
            Some(refusal) => refusals.push(refusal),
            // The first by name: the same nodes give the same choice.
            None if best.as_ref().is_none_or(|other| name < *other) => best = Some(name),
            None => {}
        }
    }
    best.ok_or_else(|| unplaceable(pool, refusals))
}

fn unplaceable(pool: &SignerPool, mut refusals: Vec<(usize, String, Unplaceable)>) -> Unplaceable {
    refusals.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let reason = refusals.first().map_or(Reason::NoMatchingNode, |(_, _, why)| why.reason);
    let named = refusals.iter().take(NODES_NAMED_MAX);
    let named: Vec<_> = named.map(|(_, name, why)| format!("{name}: {}", why.message)).collect();
    let others = refusals.len().saturating_sub(NODES_NAMED_MAX);
    let nodes =
        if named.is_empty() { "the cluster has no free node".to_owned() } else { named.join("; ") };
    let more = if others > 0 { format!("; and {others} more") } else { String::new() };
    Unplaceable { reason, message: format!("{nodes}{more}. {}", advice(pool, reason)) }
}

fn advice(pool: &SignerPool, reason: Reason) -> String {
    match reason {
        Reason::NoMatchingNode => {
            let labels: Vec<_> = pool
                .spec
                .nodes
                .selector
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            if labels.is_empty() {
                "Add a node".to_owned()
            } else {
                format!("Label a node: kubectl label node NODE {}", labels.join(" "))
            }
        }
        Reason::NodeNotReady => "Repair or uncordon a node".to_owned(),
        Reason::NodeTainted => "Add the taint to nodes.tolerations, or remove it".to_owned(),
        Reason::NodeTooSmall => {
            "Use larger nodes, or lower enclave.launcherCpuMilli, enclave.memoryMiB or \
             dataplane.resources"
                .to_owned()
        }
        _ => "Use a node that reaches the volume, or another volume".to_owned(),
    }
}

fn node_gone(allocation: &str, node: &str) -> Unplaceable {
    Unplaceable {
        reason: Reason::NodeGone,
        message: format!(
            "node {node} is gone. If it does not come back, delete enclaveallocation/{allocation}: \
             the member then moves to another node that reaches its volume"
        ),
    }
}

fn refuse(reason: Reason, message: impl Into<String>) -> Result<(), Unplaceable> {
    Err(Unplaceable { reason, message: message.into() })
}

// === checks ===

fn has_labels(pool: &SignerPool, _: &Observed, _: i32, node: &Node) -> Result<(), Unplaceable> {
    let missing = pool
        .spec
        .nodes
        .selector
        .iter()
        .find(|(key, value)| node.labels().get(*key) != Some(*value));
    match missing {
        Some((key, value)) => refuse(Reason::NoMatchingNode, format!("has no label {key}={value}")),
        None => Ok(()),
    }
}

fn is_ready(
    pool: &SignerPool,
    observed: &Observed,
    slot: i32,
    node: &Node,
) -> Result<(), Unplaceable> {
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        return refuse(Reason::NodeNotReady, "is cordoned");
    }
    kubelet_is_ready(pool, observed, slot, node)
}

fn kubelet_is_ready(_: &SignerPool, _: &Observed, _: i32, node: &Node) -> Result<(), Unplaceable> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    if ready { Ok(()) } else { refuse(Reason::NodeNotReady, "is not ready") }
}

fn is_tolerated(pool: &SignerPool, _: &Observed, _: i32, node: &Node) -> Result<(), Unplaceable> {
    let repels = |taint: &&Taint| {
        taint.effect != "PreferNoSchedule"
            && !CONDITION_TAINTS.contains(&taint.key.as_str())
            && !pool
                .spec
                .nodes
                .tolerations
                .iter()
                .any(|one| one.tolerates(&taint.key, taint.value.as_deref(), &taint.effect))
    };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    match taints.and_then(|taints| taints.iter().find(repels)) {
        Some(taint) => {
            let value = taint.value.as_deref().unwrap_or_default();
            refuse(Reason::NodeTainted, format!("has taint {}={value}:{}", taint.key, taint.effect))
        }
        None => Ok(()),
    }
}

fn is_large_enough(
    pool: &SignerPool,
    _: &Observed,
    _: i32,
    node: &Node,
) -> Result<(), Unplaceable> {
    let needs = needs::needs(pool);
    let allocatable = |name: &str| {
        let quantities = node.status.as_ref()?.allocatable.as_ref()?;
        Some(quantities.get(name)?.0.as_str())
    };
    let cpu_milli = allocatable("cpu").and_then(quantity::milli).unwrap_or_default();
    if cpu_milli < i128::from(needs.cpu_milli) {
        return refuse(
            Reason::NodeTooSmall,
            format!("has {cpu_milli}m allocatable cpu, a member needs {}m", needs.cpu_milli),
        );
    }
    let memory_mib = allocatable("memory").and_then(quantity::mebi).unwrap_or_default();
    if memory_mib < needs.memory_mib {
        return refuse(
            Reason::NodeTooSmall,
            format!("has {memory_mib}Mi allocatable memory, a member needs {}Mi", needs.memory_mib),
        );
    }
    Ok(())
}

fn reaches_volume(
    pool: &SignerPool,
    observed: &Observed,
    slot: i32,
    node: &Node,
) -> Result<(), Unplaceable> {
    match volume::of_slot(pool, observed, slot) {
        Some(volume) if !volume::is_reachable(volume, node) => refuse(
            Reason::VolumeElsewhere,
            format!("does not reach volume {} of the store", volume.name_any()),
        ),
        _ => Ok(()),
    }
}
