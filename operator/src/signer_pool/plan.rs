//! What to do, from what is wanted and what is there. Pure and total: no client, no clock, no
//! error; where nothing can be done, the plan says why.

mod delete;
mod member;
mod ring;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Resource, ResourceExt};
use sigil_crds::{EnclaveAllocation, SignerPool, SignerRing};

use super::members::{Member, members};
use super::observe::Observed;
use super::ownership::{is_ours, not_ours};
use super::validate::{Verdict, desired_replicas};
use crate::conditions::Reason;
use crate::names::FINALIZER;
use crate::resources;

/// How long a planned change waits for dataplanes to acknowledge it, in seconds. They acknowledge
/// within 5 s; a dataplane that takes longer is not serving.
pub const ACKNOWLEDGE_TIMEOUT_S: i64 = 30;
/// How long the finalizer holds a pool, in seconds: a grace period of 30 s, and as much again for
/// the drain before it and the kubelet after it.
pub const DELETE_TIMEOUT_S: i64 = 120;

/// What to do, and what is waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Why nothing more is done.
    pub waiting_on: Vec<Waiting>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold the pool until its pods are gone.
    AddFinalizer,
    /// Let the pool go.
    RemoveFinalizer,
    /// Account of the pods.
    ApplyServiceAccount(Box<ServiceAccount>),
    /// What the account may do.
    ApplyRole(Box<Role>),
    /// Who has the role.
    ApplyRoleBinding(Box<RoleBinding>),
    /// How many members a drain leaves.
    ApplyBudget(Box<PodDisruptionBudget>),
    /// Settings of a dataplane.
    ApplySettings(Box<ConfigMap>),
    /// Volume of an embedded store.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// What binds a member to a node.
    ApplyAllocation(Box<EnclaveAllocation>),
    /// The next epoch.
    ApplyRing(Box<SignerRing>),
    /// A member's pod.
    CreatePod(Box<Pod>),
    /// This very pod, no later one of its name.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// Why.
        why: String,
    },
    /// A member that is not wanted any more.
    DeleteAllocation {
        /// Its name.
        name: String,
    },
}

/// Something that must happen first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What kind of thing.
    pub reason: Reason,
    /// What, for a person.
    pub message: String,
}

/// What every step of the planner sees.
struct Scene<'a> {
    pool: &'a SignerPool,
    observed: &'a Observed,
    members: Vec<Member<'a>>,
}

/// What to do next.
pub fn plan(pool: &SignerPool, verdict: &Verdict, observed: &Observed) -> Plan {
    let scene = Scene { pool, observed, members: members(pool, observed) };
    let mut plan = Plan::default();
    if pool.metadata.deletion_timestamp.is_some() {
        delete::plan_deletion(&scene, &mut plan);
        return plan;
    }
    plan_finalizer(&scene, &mut plan);
    match verdict {
        Verdict::Valid(valid) => {
            plan_accounts(&scene, &mut plan);
            plan_budget(&scene, &mut plan);
            for one in &scene.members {
                member::plan_member(&scene, valid, one, &mut plan);
            }
            ring::plan_ring(&scene, valid, &mut plan);
        }
        Verdict::Blocked(problems) => {
            plan.waiting_on.extend(problems.iter().map(|problem| Waiting {
                reason: problem.reason,
                message: problem.message.clone(),
            }));
        }
    }
    // Nothing starts from what somebody else made.
    if let Some(what) = not_ours(pool, observed) {
        plan.actions.retain(|action| !matches!(action, Action::CreatePod(_)));
        plan.wait(Reason::ObjectNotOurs, what);
    }
    // Pods last: what they read must be there when they start.
    plan.actions.sort_by_key(|action| matches!(action, Action::CreatePod(_)));
    plan
}

fn plan_finalizer(scene: &Scene<'_>, plan: &mut Plan) {
    if !scene.pool.finalizers().iter().any(|held| held == FINALIZER) {
        plan.actions.push(Action::AddFinalizer);
    }
}

fn plan_accounts(scene: &Scene<'_>, plan: &mut Plan) {
    let Scene { pool, observed, .. } = scene;
    let own = pool.spec.dataplane.service_account_name.as_deref();
    let account = resources::service_account(pool);
    if own.is_none() && is_due(pool, &account, observed.service_account.as_ref()) {
        plan.actions.push(Action::ApplyServiceAccount(Box::new(account.clone())));
    }
    let slots: Vec<_> = scene.members.iter().map(|member| member.slot).collect();
    let role = resources::role(pool, &slots);
    if is_due(pool, &role, observed.role.as_ref()) {
        plan.actions.push(Action::ApplyRole(Box::new(role)));
    }
    // Somebody else's account gets no rights of ours.
    if own.is_none()
        && observed.service_account.as_ref().is_some_and(|it| !is_ours(pool, it.meta()))
    {
        return;
    }
    let name = account.name_any();
    let binding = resources::role_binding(pool, own.unwrap_or(&name));
    if is_due(pool, &binding, observed.role_binding.as_ref()) {
        plan.actions.push(Action::ApplyRoleBinding(Box::new(binding)));
    }
}

fn plan_budget(scene: &Scene<'_>, plan: &mut Plan) {
    let Scene { pool, .. } = scene;
    let budget = resources::disruption_budget(pool, desired_replicas(pool));
    if is_due(pool, &budget, scene.observed.budget.as_ref()) {
        plan.actions.push(Action::ApplyBudget(Box::new(budget)));
    }
}

/// Whether the object is to be applied: it is not there, or is ours and differs.
fn is_due<K>(pool: &SignerPool, wanted: &K, live: Option<&K>) -> bool
where
    K: Resource<DynamicType = ()> + serde::Serialize,
{
    live.is_none_or(|live| is_ours(pool, live.meta()) && !resources::is_subset(wanted, live))
}

// === impl Plan ===

impl Plan {
    fn wait(&mut self, reason: Reason, message: impl Into<String>) {
        self.waiting_on.push(Waiting { reason, message: message.into() });
    }

    /// The pool is let go in this pass: there is no status to write afterwards.
    pub fn lets_go(&self) -> bool {
        self.actions.contains(&Action::RemoveFinalizer)
    }
}

// === impl Action ===

impl Action {
    /// What it does, in a few words, for events, errors and golden files.
    pub fn describe(&self) -> String {
        let named = |verb: &str, kind: &str, name: String| format!("{verb} {kind} {name}");
        match self {
            Self::AddFinalizer => format!("add finalizer {FINALIZER}"),
            Self::RemoveFinalizer => format!("remove finalizer {FINALIZER}"),
            Self::ApplyServiceAccount(it) => named("apply", "ServiceAccount", it.name_any()),
            Self::ApplyRole(it) => named("apply", "Role", it.name_any()),
            Self::ApplyRoleBinding(it) => named("apply", "RoleBinding", it.name_any()),
            Self::ApplyBudget(it) => named("apply", "PodDisruptionBudget", it.name_any()),
            Self::ApplySettings(it) => named("apply", "ConfigMap", it.name_any()),
            Self::CreateClaim(it) => named("create", "PersistentVolumeClaim", it.name_any()),
            Self::ApplyAllocation(it) => {
                format!("apply EnclaveAllocation {} on {}", it.name_any(), it.spec.node)
            }
            Self::ApplyRing(it) => {
                let members: Vec<_> = it
                    .spec
                    .members
                    .iter()
                    .map(|member| format!("{}={:?}", member.slot, member.state))
                    .collect();
                let members = members.join(" ");
                format!("apply SignerRing {} epoch {} [{members}]", it.name_any(), it.spec.epoch)
            }
            Self::CreatePod(it) => named("create", "Pod", it.name_any()),
            Self::DeletePod { name, why, .. } => format!("delete Pod {name}: {why}"),
            Self::DeleteAllocation { name } => format!("delete EnclaveAllocation {name}"),
        }
    }
}
