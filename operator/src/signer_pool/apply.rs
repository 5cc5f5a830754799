//! Carries a plan out, in its order. Everything is applied server-side under our own field
//! manager; pods and claims are created once and never compared.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sigil_crds::{EnclaveAllocation, SignerPool};

use super::ownership::is_ours;
use super::plan::{Action, Plan};
use super::{Context, PassError};
use crate::names::{FINALIZER, MANAGER, POOL_LABEL};
use crate::runtime::events::Severity;

const HTTP_NOT_FOUND: u16 = 404;
const HTTP_CONFLICT: u16 = 409;

/// A plan that was carried out, as far as the API server let it. Only this leads to a status.
#[derive(Debug)]
pub struct Applied {
    /// What was planned.
    pub plan: Plan,
    /// How many actions were carried out.
    pub done: usize,
    /// The first that failed; none after it was tried.
    pub failure: Option<PassError>,
}

/// Carries the plan out up to the first failure.
pub async fn apply(context: &Context, pool: &SignerPool, plan: Plan) -> Applied {
    let applier = Applier { context, pool, namespace: pool.namespace().unwrap_or_default() };
    let mut done = 0;
    let mut failure = None;
    for action in &plan.actions {
        if let Err(refusal) = applier.carry_out(action).await {
            let what = action.describe();
            failure = Some(match refusal {
                Refusal::NotOurs => PassError::NotOurs { what },
                Refusal::Request(source) => PassError::Apply { what, source: Box::new(source) },
            });
            break;
        }
        done += 1;
        tracing::info!(
            namespace = applier.namespace,
            pool = pool.name_any(),
            action = action.describe(),
            "applied"
        );
        applier.announce(action).await;
    }
    Applied { plan, done, failure }
}

/// Why an action was not carried out.
#[derive(Debug)]
enum Refusal {
    NotOurs,
    Request(kube::Error),
}

struct Applier<'a> {
    context: &'a Context,
    pool: &'a SignerPool,
    namespace: String,
}

// === impl Refusal ===

impl From<kube::Error> for Refusal {
    fn from(source: kube::Error) -> Self {
        Self::Request(source)
    }
}

// === impl Applier ===

impl Applier<'_> {
    async fn carry_out(&self, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::AddFinalizer => Ok(self.set_finalizers(true).await?),
            Action::RemoveFinalizer => Ok(self.set_finalizers(false).await?),
            Action::ApplyServiceAccount(it) => self.put(it.as_ref()).await,
            Action::ApplyRole(it) => self.put(it.as_ref()).await,
            Action::ApplyRoleBinding(it) => self.put(it.as_ref()).await,
            Action::ApplyBudget(it) => self.put(it.as_ref()).await,
            Action::ApplySettings(it) => self.put(it.as_ref()).await,
            Action::ApplyAllocation(it) => self.put(it.as_ref()).await,
            Action::ApplyRing(it) => self.put(it.as_ref()).await,
            Action::CreateClaim(it) => Ok(self.create::<PersistentVolumeClaim>(it).await?),
            Action::CreatePod(it) => Ok(self.create::<Pod>(it).await?),
            Action::DeletePod { name, uid, .. } => Ok(self.delete::<Pod>(name, Some(uid)).await?),
            Action::DeleteAllocation { name } => {
                Ok(self.delete::<EnclaveAllocation>(name, None).await?)
            }
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    /// The planner keeps off what is not ours; this looks again at the last moment, and at what
    /// the planner, who reads allocations by label, cannot see.
    async fn put<K>(&self, object: &K) -> Result<(), Refusal>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let live = self.api::<K>().get_metadata_opt(&object.name_any()).await?;
        if live.is_some_and(|live| !is_ours(self.pool, &live.metadata)) {
            return Err(Refusal::NotOurs);
        }
        let parameters = PatchParams::apply(MANAGER).force();
        self.api::<K>().patch(&object.name_any(), &parameters, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// One of ours that is there already was made by a pass that did not see its own answer. One of
    /// somebody else stays untouched, and the pool says so.
    async fn create<K>(&self, object: &K) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let parameters =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.api::<K>().create(&parameters, object).await {
            Err(kube::Error::Api(status)) if status.code == HTTP_CONFLICT => {
                let found = self.api::<K>().get_metadata(&object.name_any()).await?;
                let ours = found.labels().get(POOL_LABEL) == Some(&self.pool.name_any());
                if ours { Ok(()) } else { Err(kube::Error::Api(status)) }
            }
            other => other.map(drop),
        }
    }

    /// One that is gone already, or is another one by now, is what was wanted.
    async fn delete<K>(&self, name: &str, uid: Option<&String>) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let preconditions =
            uid.map(|uid| Preconditions { uid: Some(uid.clone()), resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.api::<K>().delete(name, &parameters).await {
            Err(kube::Error::Api(status))
                if [HTTP_NOT_FOUND, HTTP_CONFLICT].contains(&status.code) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// A merge replaces the whole list, so the version read before must still be the newest.
    async fn set_finalizers(&self, held: bool) -> Result<(), kube::Error> {
        let mut finalizers = self.pool.finalizers().to_vec();
        finalizers.retain(|one| one != FINALIZER);
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        let version = self.pool.resource_version();
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
        let parameters =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.api::<SignerPool>();
        match api.patch(&self.pool.name_any(), &parameters, &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if !held && status.code == HTTP_NOT_FOUND => Ok(()),
            other => other.map(drop),
        }
    }

    async fn announce(&self, action: &Action) {
        let (reason, severity) = match action {
            Action::CreatePod(_) => ("PodCreated", Severity::Normal),
            Action::DeletePod { .. } => ("PodDeleted", Severity::Normal),
            Action::ApplyRing(_) => ("RingChanged", Severity::Normal),
            Action::CreateClaim(_) => ("ClaimCreated", Severity::Normal),
            _ => return,
        };
        self.context.events.publish(self.pool, severity, reason, &action.describe()).await;
    }
}
