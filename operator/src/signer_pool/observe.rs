//! Reads everything that a pass decides on.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use sigil_crds::{EnclaveAllocation, SignerPool, SignerRing};

use super::validate::desired_replicas;
use super::{Context, PassError};
use crate::measurements::Catalog;
use crate::names::{MEASUREMENTS_CONFIG_MAP, Names, POOL_LABEL};

/// Everything that a pass decides on, at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When it was read.
    pub now: Timestamp,
    /// The namespace is being deleted: nothing can be made in it.
    pub namespace_terminating: bool,
    /// Measurements that the chart names.
    pub catalog: Catalog,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Claims of the pool's members.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Volumes that those claims are bound to, or that the pool names.
    pub volumes: Vec<PersistentVolume>,
    /// Pods of the pool.
    pub pods: Vec<Pod>,
    /// Allocations of the pool.
    pub allocations: Vec<EnclaveAllocation>,
    /// Ring of the pool.
    pub ring: Option<SignerRing>,
    /// Settings of the members' dataplanes.
    pub settings: Vec<ConfigMap>,
    /// Account of the pods.
    pub service_account: Option<ServiceAccount>,
    /// What the account may do.
    pub role: Option<Role>,
    /// Who has the role.
    pub role_binding: Option<RoleBinding>,
    /// How many members a drain leaves.
    pub budget: Option<PodDisruptionBudget>,
}

/// Reads everything.
///
/// # Errors
/// The first request that failed.
pub async fn observe(context: &Context, pool: &SignerPool) -> Result<Observed, PassError> {
    let reader = Reader { context, namespace: pool.namespace().unwrap_or_default() };
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let claims = reader.claims(pool).await?;
    Ok(Observed {
        now: Timestamp::now(),
        namespace_terminating: reader.namespace_terminating().await?,
        catalog: reader.catalog().await?,
        nodes: reader.nodes().await?,
        volumes: reader.volumes(pool, &claims).await?,
        claims,
        pods: reader.of_pool("pods", &pool_name).await?,
        allocations: reader.of_pool("allocations", &pool_name).await?,
        ring: reader
            .named::<DeserializeGuard<SignerRing>>("ring", &names.ring())
            .await?
            .and_then(readable),
        settings: reader.settings(pool).await?,
        service_account: reader.named("service account", &names.service_account()).await?,
        role: reader.named("role", &names.service_account()).await?,
        role_binding: reader.named("role binding", &names.service_account()).await?,
        budget: reader.named("disruption budget", &names.ring()).await?,
    })
}

struct Reader<'a> {
    context: &'a Context,
    namespace: String,
}

// === impl Reader ===

impl Reader<'_> {
    async fn named<K>(&self, what: &'static str, name: &str) -> Result<Option<K>, PassError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api = Api::<K>::namespaced(self.context.client.clone(), &self.namespace);
        api.get_opt(name).await.map_err(failed(what))
    }

    /// Objects with the pool's label. One that cannot be read is left out, with a warning.
    async fn of_pool<K>(&self, what: &'static str, pool: &str) -> Result<Vec<K>, PassError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api =
            Api::<DeserializeGuard<K>>::namespaced(self.context.client.clone(), &self.namespace);
        let selector = ListParams::default().labels(&format!("{POOL_LABEL}={pool}"));
        let list = api.list(&selector).await.map_err(failed(what))?;
        Ok(list.items.into_iter().filter_map(readable).collect())
    }

    async fn namespace_terminating(&self) -> Result<bool, PassError> {
        let api = Api::<Namespace>::all(self.context.client.clone());
        let found = api.get_opt(&self.namespace).await.map_err(failed("the namespace"))?;
        Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    async fn catalog(&self) -> Result<Catalog, PassError> {
        let context = self.context;
        let api = Api::<ConfigMap>::namespaced(context.client.clone(), &context.own_namespace);
        let found =
            api.get_opt(MEASUREMENTS_CONFIG_MAP).await.map_err(failed("the measurements"))?;
        Ok(Catalog::read(found.as_ref()))
    }

    async fn nodes(&self) -> Result<Vec<Node>, PassError> {
        let api = Api::<Node>::all(self.context.client.clone());
        let list = api.list(&ListParams::default()).await.map_err(failed("nodes"))?;
        Ok(list.items)
    }

    /// By name, not by label: a claim of that name that is not ours must be seen.
    async fn claims(&self, pool: &SignerPool) -> Result<Vec<PersistentVolumeClaim>, PassError> {
        let pool_name = pool.name_any();
        let mut claims = Vec::new();
        for slot in 0..desired_replicas(pool) {
            claims.extend(self.named("claims", &Names::new(&pool_name).claim(slot)).await?);
        }
        Ok(claims)
    }

    /// By name too, for the same reason.
    async fn settings(&self, pool: &SignerPool) -> Result<Vec<ConfigMap>, PassError> {
        let pool_name = pool.name_any();
        let mut maps = Vec::new();
        for slot in 0..desired_replicas(pool) {
            maps.extend(self.named("config maps", &Names::new(&pool_name).settings(slot)).await?);
        }
        Ok(maps)
    }

    async fn volumes(
        &self,
        pool: &SignerPool,
        claims: &[PersistentVolumeClaim],
    ) -> Result<Vec<PersistentVolume>, PassError> {
        let bound = claims.iter().filter_map(|claim| claim.spec.as_ref()?.volume_name.clone());
        let asked = pool.spec.store.embedded.as_ref().and_then(|store| store.volume_name.clone());
        let mut names: Vec<_> = bound.chain(asked).filter(|name| !name.is_empty()).collect();
        names.sort();
        names.dedup();
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let mut volumes = Vec::new();
        for name in names {
            volumes.extend(api.get_opt(&name).await.map_err(failed("volumes"))?);
        }
        Ok(volumes)
    }
}

fn failed(what: &'static str) -> impl Fn(kube::Error) -> PassError {
    move |source| PassError::Observe { what, source: Box::new(source) }
}

/// One bad object never stops a pass: it is as if it were not there, and the log says so.
fn readable<K: Resource<DynamicType = ()>>(guarded: DeserializeGuard<K>) -> Option<K> {
    match guarded.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            tracing::warn!(
                kind = %K::kind(&()),
                name = invalid.metadata.name,
                namespace = invalid.metadata.namespace,
                error = invalid.error,
                "object skipped: it cannot be read"
            );
            None
        }
    }
}
