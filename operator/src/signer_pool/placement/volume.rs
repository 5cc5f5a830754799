//! Nodes that reach a volume, by the node affinity of the volume.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
};
use kube::ResourceExt;
use sigil_crds::SignerPool;

use super::super::observe::Observed;
use crate::names::Names;

/// The volume that holds the store of `slot`: what its claim is bound to, else what the pool names.
pub(super) fn of_slot<'a>(
    pool: &SignerPool,
    observed: &'a Observed,
    slot: i32,
) -> Option<&'a PersistentVolume> {
    let claim = Names::new(&pool.name_any()).claim(slot);
    let bound = observed
        .claims
        .iter()
        .find(|found| found.name_any() == claim)
        .and_then(|found| found.spec.as_ref()?.volume_name.clone());
    let asked = || pool.spec.store.embedded.as_ref()?.volume_name.clone();
    let name = bound.or_else(asked)?;
    observed.volumes.iter().find(|volume| volume.name_any() == name)
}

/// Whether pods on `node` can use `volume`.
pub(super) fn is_reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| {
        selector.node_selector_terms.iter().any(|term| term_matches(term, node))
    })
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = |key: &str| node.labels().get(key).cloned();
    let fields = |key: &str| (key == "metadata.name").then(|| node.name_any());
    let expressions = term.match_expressions.iter().flatten();
    let field_expressions = term.match_fields.iter().flatten();
    expressions.into_iter().all(|one| matches(one, labels(&one.key)))
        && field_expressions.into_iter().all(|one| matches(one, fields(&one.key)))
}

/// `Gt` and `Lt`, which no volume uses, are left to the scheduler.
fn matches(requirement: &NodeSelectorRequirement, found: Option<String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(&value)),
        "NotIn" => found.is_none_or(|value| !values.contains(&value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => true,
    }
}
