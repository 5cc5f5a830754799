//! What the dataplanes of a pool may do at the API server: read their ring, report on their
//! allocation. Nothing else, and nothing of another pool.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use sigil_crds::SignerPool;

use crate::names::{Names, owned};

/// The account of the pods, where the pool names none.
pub fn service_account(pool: &SignerPool) -> ServiceAccount {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    ServiceAccount {
        metadata: owned(pool, names.service_account(), names.labels()),
        ..ServiceAccount::default()
    }
}

/// What the account may do, by name of each object.
pub fn role(pool: &SignerPool, slots: &[i32]) -> Role {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let members: Vec<_> = slots.iter().map(|slot| names.member(*slot)).collect();
    let rule = |resource: &str, objects: Vec<String>, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![sigil_crds::GROUP.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(objects),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let mut rules = vec![rule("signerrings", vec![names.ring()], &["get", "list", "watch"])];
    // A rule without names would allow every object.
    if !members.is_empty() {
        rules.push(rule("enclaveallocations", members.clone(), &["get"]));
        rules.push(rule("enclaveallocations/status", members, &["patch"]));
    }
    Role { metadata: owned(pool, names.service_account(), names.labels()), rules: Some(rules) }
}

/// Gives the role to the account, the pool's own or the one that it names.
pub fn role_binding(pool: &SignerPool, account: &str) -> RoleBinding {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    RoleBinding {
        metadata: owned(pool, names.service_account(), names.labels()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: names.service_account(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: pool.namespace(),
            ..Subject::default()
        }]),
    }
}
