//! How many members a drain leaves.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use sigil_crds::SignerPool;

use crate::names::{Names, owned};

/// At most one member at a time, and none is protected when there is only one: a budget that can
/// never be met would block every drain for ever. Pods that are not ready may always go.
pub fn disruption_budget(pool: &SignerPool, desired: i32) -> PodDisruptionBudget {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    PodDisruptionBudget {
        metadata: owned(pool, names.ring(), names.labels()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(desired.saturating_sub(1).max(0))),
            selector: Some(LabelSelector {
                match_labels: Some(names.selector()),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
