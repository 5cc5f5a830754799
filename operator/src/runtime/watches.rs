//! What starts a pass. One bad object never stops a watch: what cannot be read as its type is
//! still seen, by its metadata.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::PredicateConfig;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, controller};
use kube::{Api, Resource, ResourceExt};
use sigil_crds::{EnclaveAllocation, SignerPool, SignerRing};
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::names::{MEASUREMENTS_CONFIG_MAP, POOL_LABEL};
use crate::outcome::Outcome;
use crate::signer_pool::{Context, PassError, reconcile, unreadable};

/// Passes at once: each is a handful of requests, and pools do not touch each other.
const PASSES_MAX: u16 = 8;

type Guarded = DeserializeGuard<SignerPool>;

struct Passes {
    context: Arc<Context>,
    metrics: Arc<Metrics>,
}

/// Makes passes until `stop` says so; one item a pass.
pub fn controller(
    context: &Arc<Context>,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) -> impl Stream<Item = ()> {
    let client = || context.client.clone();
    let any = watcher::Config::default;
    let ours = any().labels(POOL_LABEL);
    let passes = Arc::new(Passes { context: Arc::clone(context), metrics: Arc::clone(&metrics) });
    Controller::new(Api::<Guarded>::all(client()), any())
        .with_config(controller::Config::default().concurrency(PASSES_MAX))
        .owns(Api::<Pod>::all(client()), ours.clone())
        .owns(Api::<DeserializeGuard<SignerRing>>::all(client()), any())
        .owns(Api::<DeserializeGuard<EnclaveAllocation>>::all(client()), any())
        .watches(Api::<PersistentVolumeClaim>::all(client()), ours, |claim| by_label(&claim))
        .reconcile_all_on(nodes(context))
        .reconcile_all_on(measurements(context))
        .graceful_shutdown_on(async move {
            // A closed channel is a stop too.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(pass, |_, _, _| Action::requeue(Outcome::Failed.requeue_after()), passes)
        .map(move |result| {
            // A failed pass is logged where it failed; the rest are watches, which go on.
            if let Err(error) = result
                && !matches!(error, controller::Error::ReconcilerFailed(..))
            {
                metrics.watch_errors.inc();
                tracing::warn!(%error, "watch");
            }
        })
}

async fn pass(guarded: Arc<Guarded>, passes: Arc<Passes>) -> Result<Action, PassError> {
    let pool = match &guarded.0 {
        Ok(pool) => pool,
        Err(invalid) => {
            tracing::warn!(
                name = invalid.metadata.name,
                namespace = invalid.metadata.namespace,
                error = invalid.error,
                "pool skipped: it cannot be read; it is from a newer or damaged definition"
            );
            return end_unreadable(&passes, &invalid.metadata).await;
        }
    };
    let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
    let started = Instant::now();
    let result = reconcile(&passes.context, pool).await;
    let outcome = *result.as_ref().unwrap_or(&Outcome::Failed);
    passes.metrics.pass(outcome, started.elapsed());
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice());
    if pool.metadata.deletion_timestamp.is_some() {
        passes.metrics.forget(&namespace, &name, conditions.unwrap_or_default());
    } else {
        passes.metrics.show(&namespace, &name, conditions.unwrap_or_default());
    }
    if let Err(error) = &result {
        tracing::warn!(namespace, pool = name, %error, "pass failed; it is repeated");
    }
    result.map(|outcome| Action::requeue(outcome.requeue_after()))
}

async fn end_unreadable(passes: &Passes, metadata: &ObjectMeta) -> Result<Action, PassError> {
    match unreadable::let_go(&passes.context.client, metadata, Timestamp::now()).await {
        Ok(left) => Ok(left.map_or_else(Action::await_change, Action::requeue)),
        Err(source) => {
            tracing::warn!(name = metadata.name, error = %source, "pool is not let go; repeated");
            let what = "remove the finalizer of a pool that cannot be read".to_owned();
            Err(PassError::Apply { what, source: Box::new(source) })
        }
    }
}

fn by_label(claim: &PersistentVolumeClaim) -> Option<ObjectRef<Guarded>> {
    let pool = claim.labels().get(POOL_LABEL)?;
    Some(ObjectRef::new(pool).within(&claim.namespace()?))
}

/// Changes of nodes that decide placement; heartbeats are none.
fn nodes(context: &Context) -> impl Stream<Item = ()> + Send + 'static {
    let api = Api::<Node>::all(context.client.clone());
    watcher(api, watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(
            |node: &Node| Some(what_placement_reads(node)),
            PredicateConfig::default(),
        )
        .filter_map(|node| std::future::ready(node.ok().map(drop)))
}

fn what_placement_reads(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", node.spec).hash(&mut hasher);
    node.labels().hash(&mut hasher);
    node.meta().deletion_timestamp.is_some().hash(&mut hasher);
    let status = node.status.as_ref();
    format!("{:?}", status.map(|status| &status.allocatable)).hash(&mut hasher);
    let conditions = status.and_then(|status| status.conditions.as_ref());
    for condition in conditions.into_iter().flatten() {
        (&condition.type_, &condition.status).hash(&mut hasher);
    }
    hasher.finish()
}

fn measurements(context: &Context) -> impl Stream<Item = ()> + Send + 'static {
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &context.own_namespace);
    let only =
        watcher::Config::default().fields(&format!("metadata.name={MEASUREMENTS_CONFIG_MAP}"));
    watcher(api, only)
        .default_backoff()
        .touched_objects()
        .filter_map(|map| std::future::ready(map.ok().map(drop)))
}
