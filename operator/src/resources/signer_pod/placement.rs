//! Where a pod runs: on the node of its allocation and nowhere else, for as long as that exists.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PodAffinityTerm, PodAntiAffinity, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use sigil_crds::SignerPool;

use crate::names::Names;

/// The node by name and by the pool's labels, and no second member of the pool beside it.
pub(super) fn affinity(pool: &SignerPool, node: &str) -> Affinity {
    let is = |key: &str, value: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    let selector = &pool.spec.nodes.selector;
    let labels = selector.iter().map(|(key, value)| is(key, value)).collect::<Vec<_>>();
    let term = NodeSelectorTerm {
        match_fields: Some(vec![is("metadata.name", node)]),
        match_expressions: (!labels.is_empty()).then_some(labels),
    };
    let pool_name = pool.name_any();
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..NodeAffinity::default()
        }),
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                label_selector: Some(LabelSelector {
                    match_labels: Some(Names::new(&pool_name).selector()),
                    ..LabelSelector::default()
                }),
                topology_key: "kubernetes.io/hostname".to_owned(),
                ..PodAffinityTerm::default()
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// The pool's own, and not-ready and unreachable without limit: a pod that is moved loses its
/// enclave and every warm key, a node that is away for a moment loses nothing.
pub(super) fn tolerations(pool: &SignerPool) -> Vec<Toleration> {
    let away = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let always = away.map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    let own = pool.spec.nodes.tolerations.iter().map(|toleration| Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.map(|operator| operator.as_str().to_owned()),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect| effect.as_str().to_owned()),
        toleration_seconds: None,
    });
    always.into_iter().chain(own).collect()
}
