//! An API server in memory, as far as passes need one: objects by kind and name, applied plans,
//! UIDs, and a clock that moves when it is told to.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sigil_crds::{SignerPool, SignerPoolStatus};

use super::linter::lint;
use crate::conditions::Finding;
use crate::measurements::Catalog;
use crate::names::{FINALIZER, MEASUREMENTS_CONFIG_MAP};
use crate::signer_pool::findings::findings;
use crate::signer_pool::observe::Observed;
use crate::signer_pool::plan::{Action, Plan, plan};
use crate::signer_pool::status;
use crate::signer_pool::validate::{Verdict, validate};

/// 2026-01-01T00:00:00Z.
const START_S: i64 = 1_767_225_600;

/// Objects by kind and name; one namespace.
#[derive(Clone, Debug)]
pub(super) struct World {
    objects: BTreeMap<(String, String), Value>,
    now_s: i64,
    uids: u32,
    pub(super) namespace_terminating: bool,
}

/// What a pass did.
pub(super) struct Pass {
    pub(super) plan: Plan,
    pub(super) findings: Vec<Finding>,
    pub(super) status_changed: bool,
}

// === impl World ===

impl World {
    pub(super) fn new() -> Self {
        Self { objects: BTreeMap::new(), now_s: START_S, uids: 0, namespace_terminating: false }
    }

    pub(super) fn advance(&mut self, seconds: i64) {
        self.now_s += seconds;
    }

    pub(super) fn put_text(&mut self, text: &str) {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            self.put(Value::deserialize(document).unwrap());
        }
    }

    /// Creates or replaces; the UID and the status of what was there stay.
    pub(super) fn put(&mut self, mut object: Value) {
        let key = key(&object);
        let old = self.objects.get(&key).cloned().unwrap_or(Value::Null);
        for path in ["uid", "generation", "finalizers", "deletionTimestamp"] {
            if object["metadata"][path].is_null() && !old["metadata"][path].is_null() {
                object["metadata"][path] = old["metadata"][path].clone();
            }
        }
        if object["metadata"]["uid"].is_null() {
            self.uids += 1;
            object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        }
        if object["status"].is_null() && !old["status"].is_null() {
            object["status"] = old["status"].clone();
        }
        self.objects.insert(key, object);
    }

    /// A JSON merge patch; a change of the spec is a new generation.
    pub(super) fn merge(&mut self, kind: &str, name: &str, patch: &Value) {
        let object = self
            .objects
            .get_mut(&(kind.to_owned(), name.to_owned()))
            .unwrap_or_else(|| panic!("there is no {kind} {name}"));
        merge(object, patch);
        if !patch["spec"].is_null() {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
    }

    pub(super) fn delete(&mut self, kind: &str, name: &str) {
        self.objects.remove(&(kind.to_owned(), name.to_owned()));
    }

    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        self.objects.contains_key(&(kind.to_owned(), name.to_owned()))
    }

    pub(super) fn uid(&self, kind: &str, name: &str) -> Option<String> {
        let object = self.objects.get(&(kind.to_owned(), name.to_owned()))?;
        Some(object["metadata"]["uid"].as_str()?.to_owned())
    }

    pub(super) fn get<K: DeserializeOwned>(&self, kind: &str, name: &str) -> Option<K> {
        let object = self.objects.get(&(kind.to_owned(), name.to_owned()))?;
        Some(serde_json::from_value(object.clone()).unwrap())
    }

    pub(super) fn all<K: DeserializeOwned>(&self, kind: &str) -> Vec<K> {
        let of_kind = self.objects.iter().filter(|((its, _), _)| its == kind);
        of_kind.map(|(_, object)| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    pub(super) fn pool(&self) -> Option<SignerPool> {
        self.all("SignerPool").pop()
    }

    /// One pass: plan, lint, apply, status.
    pub(super) fn pass(&mut self) -> Option<Pass> {
        let pool = self.pool()?;
        let observed = self.observe(&pool);
        let verdict = validate(&pool, &observed.catalog);
        let plan = plan(&pool, &verdict, &observed);
        lint(&pool, &observed, &plan);
        let findings = findings(&pool, &verdict, &observed, None);
        let status = status::build(&pool, &verdict, &observed, None);
        let status_changed = match &pool.status {
            Some(before) => !status::is_same(before, &status),
            None => true,
        };
        for action in &plan.actions {
            self.apply(&pool, action);
        }
        if !plan.lets_go() && status_changed {
            let key = ("SignerPool".to_owned(), pool.name_any());
            let stored = self.objects.get_mut(&key).unwrap();
            stored["status"] = serde_json::to_value(&status).unwrap();
        }
        Some(Pass { plan, findings, status_changed })
    }

    /// The status that a pass would write first.
    pub(super) fn status_without_applying(&self) -> SignerPoolStatus {
        let pool = self.pool().unwrap();
        let observed = self.observe(&pool);
        let verdict: Verdict = validate(&pool, &observed.catalog);
        status::build(&pool, &verdict, &observed, None)
    }

    fn observe(&self, pool: &SignerPool) -> Observed {
        let account = format!("{}-signer", pool.name_any());
        Observed {
            now: Timestamp::from_second(self.now_s).unwrap(),
            namespace_terminating: self.namespace_terminating,
            catalog: Catalog::read(self.get("ConfigMap", MEASUREMENTS_CONFIG_MAP).as_ref()),
            nodes: self.all("Node"),
            claims: self.all("PersistentVolumeClaim"),
            volumes: self.all("PersistentVolume"),
            pods: self.all("Pod"),
            allocations: self.all("EnclaveAllocation"),
            ring: self.get("SignerRing", &pool.name_any()),
            settings: self.all("ConfigMap"),
            service_account: self.get("ServiceAccount", &account),
            role: self.get("Role", &account),
            role_binding: self.get("RoleBinding", &account),
            budget: self.get("PodDisruptionBudget", &pool.name_any()),
        }
    }

    fn apply(&mut self, pool: &SignerPool, action: &Action) {
        match action {
            Action::AddFinalizer => self.set_finalizers(pool, &[FINALIZER]),
            Action::RemoveFinalizer => {
                if pool.metadata.deletion_timestamp.is_some() {
                    self.delete("SignerPool", &pool.name_any());
                } else {
                    self.set_finalizers(pool, &[]);
                }
            }
            Action::ApplyServiceAccount(it) => self.put(object("ServiceAccount", it)),
            Action::ApplyRole(it) => self.put(object("Role", it)),
            Action::ApplyRoleBinding(it) => self.put(object("RoleBinding", it)),
            Action::ApplyBudget(it) => self.put(object("PodDisruptionBudget", it)),
            Action::ApplySettings(it) => self.put(object("ConfigMap", it)),
            Action::CreateClaim(it) => self.put(object("PersistentVolumeClaim", it)),
            Action::ApplyAllocation(it) => self.put(object("EnclaveAllocation", it)),
            Action::ApplyRing(it) => self.put(object("SignerRing", it)),
            Action::CreatePod(it) => self.put(object("Pod", it)),
            Action::DeletePod { name, .. } => self.delete("Pod", name),
            Action::DeleteAllocation { name } => self.delete("EnclaveAllocation", name),
        }
    }

    fn set_finalizers(&mut self, pool: &SignerPool, finalizers: &[&str]) {
        self.merge(
            "SignerPool",
            &pool.name_any(),
            &json!({"metadata": {"finalizers": finalizers}}),
        );
    }
}

fn key(object: &Value) -> (String, String) {
    let kind = object["kind"].as_str().unwrap_or_else(|| panic!("no kind: {object}"));
    let name = object["metadata"]["name"].as_str().unwrap_or_else(|| panic!("no name: {object}"));
    (kind.to_owned(), name.to_owned())
}

fn object(kind: &str, it: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(it).unwrap();
    value["kind"] = json!(kind);
    value
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}
