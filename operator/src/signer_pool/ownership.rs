//! Whose the objects are that carry the names of a pool's. What somebody else made is never
//! written to: it would lose its contents, and would be collected with the pool. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use sigil_crds::SignerPool;

use super::observe::Observed;
use super::validate::desired_replicas;
use crate::names::Names;

/// Whether this very pool controls the object, not one of its name before it.
pub fn is_ours(pool: &SignerPool, metadata: &ObjectMeta) -> bool {
    let uid = pool.metadata.uid.as_ref();
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid)
}

/// What has a name that the pool needs and is not the pool's, and what to do, for a person.
pub fn not_ours(pool: &SignerPool, observed: &Observed) -> Option<String> {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let mut found = Vec::new();
    let own = pool.spec.dataplane.service_account_name.is_some();
    let account = observed.service_account.as_ref().filter(|_| !own);
    found.extend(foreign(pool, account));
    found.extend(foreign(pool, observed.role.as_ref()));
    found.extend(foreign(pool, observed.role_binding.as_ref()));
    found.extend(foreign(pool, observed.budget.as_ref()));
    found.extend(foreign(pool, observed.ring.as_ref()));
    for slot in 0..desired_replicas(pool) {
        let settings = names.settings(slot);
        let map = observed.settings.iter().find(|map| map.name_any() == settings);
        found.extend(foreign(pool, map));
    }
    found.extend(observed.allocations.iter().filter_map(|one| foreign(pool, Some(one))));
    (!found.is_empty()).then(|| {
        format!(
            "not made by this pool, and not touched: {}. Delete what is not needed any more, or \
             give the pool another name",
            found.join(", ")
        )
    })
}

fn foreign<K: Resource<DynamicType = ()>>(pool: &SignerPool, live: Option<&K>) -> Option<String> {
    let live = live.filter(|live| !is_ours(pool, live.meta()))?;
    Some(format!("{} {}", K::kind(&()), live.name_any()))
}
