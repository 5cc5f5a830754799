//! The life of a pool against a real API server, under the rights that the chart gives the
//! operator. Kubelet and dataplane are played by the test; everything else is real.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sigil_crds::{
    Condition, ConditionStatus, ConditionType, EnclaveAllocation, SignerPool, SignerRing,
};

use super::fixture::{Operator, apply, eventually, install_chart, measurements, namespace};
use super::server::Server;

const NAMESPACE: &str = "pools";
const IMAGE: &str = "example.com/enclave:1";

fn pool() -> Value {
    json!({
        "apiVersion": "sigil.dev/v1alpha1", "kind": "SignerPool",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "nodes": {"replicas": 1},
            "enclave": {"launcher": "process", "image": IMAGE, "cpuCount": 2, "memoryMiB": 128},
            "dataplane": {"image": "example.com/dataplane:1"},
            "keyspaces": [{"name": "default"}],
            "store": {"engine": "embedded", "embedded": {"sizeMiB": 64}},
        },
    })
}

struct World {
    server: Server,
    admin: Client,
    operator: Operator,
}

impl World {
    async fn start(values: &Value) -> Self {
        let server = Server::start().await;
        let client = install_chart(&server, values).await;
        let admin = server.admin();
        namespace(&admin, NAMESPACE).await;
        // As the quick start: only what PodSecurity calls restricted may run there.
        let label = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        apply(&admin, &label).await.unwrap();
        let operator = Operator::start(client, "operator");
        Self { server, admin, operator }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    async fn add_node(&self) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
        apply(&self.admin, &node).await.unwrap();
        let status = json!({"status": {"allocatable": {"cpu": "1900m", "memory": "8Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}]}});
        let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(self.admin.clone());
        nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn wait_for(
        &self,
        type_: ConditionType,
        status: ConditionStatus,
        reason: &str,
    ) -> Condition {
        eventually(&format!("{type_}={} {reason}", status.as_str()), || async {
            let pool = self.api::<SignerPool>().get("demo").await.unwrap();
            let conditions = pool.status.unwrap_or_default().conditions;
            let found = conditions.iter().find(|one| one.type_ == type_).cloned();
            found
                .filter(|one| one.status == status && one.reason == reason)
                .ok_or_else(|| format!("{conditions:#?}"))
        })
        .await
    }

    /// The kubelet and the volume binder: the pod runs, the claim is bound.
    async fn run_pod(&self) -> Pod {
        let pods = self.api::<Pod>();
        eventually("the pod", || async {
            pods.get_opt("demo-0").await.unwrap().ok_or_else(|| "none".to_owned())
        })
        .await;
        let bound = json!({"status": {"phase": "Bound"}});
        let merge = PatchParams::default();
        let claims = self.api::<PersistentVolumeClaim>();
        claims.patch_status("demo-0-store", &merge, &Patch::Merge(bound)).await.unwrap();
        let ready = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status("demo-0", &merge, &Patch::Merge(ready)).await.unwrap()
    }

    /// The dataplane: a healthy report of this pod, serving the newest ring.
    async fn report(&self, pod: &Pod) {
        let ring = self.api::<SignerRing>().get("demo").await.unwrap();
        let status = json!({
            "apiVersion": "sigil.dev/v1alpha1", "kind": "EnclaveAllocation",
            "metadata": {"name": "demo-0"},
            "status": {"enclave": {
                "podUid": pod.uid().unwrap(), "running": true, "attested": true, "trusted": false,
                "rng": "software", "storeDurable": true, "ringEpoch": ring.spec.epoch,
                "bootId": "00112233445566778899aabbccddeeff",
                "keyspaces": [{"name": "default", "unlocked": true}],
            }},
        });
        let parameters = PatchParams::apply("sigil-dataplane");
        self.api::<EnclaveAllocation>()
            .patch_status("demo-0", &parameters, &Patch::Apply(status))
            .await
            .unwrap();
    }
}

/// From an empty cluster to a ready pool, and away again.
#[tokio::test]
async fn a_pool_comes_up_and_goes_away() {
    let world = World::start(&measurements(IMAGE)).await;
    apply(&world.admin, &pool()).await.unwrap();
    let unplaced = world
        .wait_for(ConditionType::AllocationReady, ConditionStatus::False, "NoMatchingNode")
        .await;
    assert!(unplaced.message.contains("Add a node"), "{unplaced:?}");
    world.add_node().await;
    let pod = world.run_pod().await;
    assert_eq!(pod.status.as_ref().unwrap().qos_class.as_deref(), Some("Guaranteed"));
    world.report(&pod).await;
    world.wait_for(ConditionType::Available, ConditionStatus::True, "FloorActive").await;
    world.report(&pod).await;
    world.wait_for(ConditionType::Ready, ConditionStatus::True, "AllMembersActive").await;
    world.wait_for(ConditionType::Trusted, ConditionStatus::False, "DevelopmentLauncher").await;
    both_writers_keep_their_part(&world).await;
    ready_pools_are_left_alone(&world).await;
    events_tell_the_story(&world).await;

    world.api::<SignerPool>().delete("demo", &DeleteParams::default()).await.unwrap();
    // The kubelet is played: a pod that is told to end has ended.
    eventually("the end of the pool", || async {
        let now = DeleteParams::default().grace_period(0);
        let pods = world.api::<Pod>();
        if let Some(pod) = pods.get_opt("demo-0").await.unwrap() {
            if pod.metadata.deletion_timestamp.is_some() {
                // The operator may have been faster.
                let ended = pods.delete("demo-0", &now).await;
                assert!(ended.is_ok() || is_not_found(&ended), "{ended:?}");
            } else if let Some(ring) = world.api::<SignerRing>().get_opt("demo").await.unwrap() {
                let draining =
                    ring.spec.members.iter().any(|one| format!("{:?}", one.state) == "Draining");
                if draining {
                    world.report(&pod).await;
                }
            }
        }
        let pool = world.api::<SignerPool>().get_opt("demo").await.unwrap();
        pool.map_or(Ok(()), |pool| Err(format!("{pool:?}")))
    })
    .await;
    let claim = world.api::<PersistentVolumeClaim>().get("demo-0-store").await.unwrap();
    assert!(claim.owner_references().is_empty() && claim.metadata.deletion_timestamp.is_none());
    world.operator.stop().await.unwrap();
    drop(world.server);
}

fn is_not_found<T>(answer: &Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 404)
}

/// Operator and dataplane own disjoint parts of the allocation's status.
async fn both_writers_keep_their_part(world: &World) {
    let allocation = world.api::<EnclaveAllocation>().get("demo-0").await.unwrap();
    let status = allocation.status.unwrap();
    assert!(status.enclave.unwrap().attested);
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.type_, ready.status),
        (ConditionType::AllocationReady, ConditionStatus::True)
    );
}

/// A pool that is as it should be is not written to, however often it is looked at.
async fn ready_pools_are_left_alone(world: &World) {
    let api = world.api::<SignerPool>();
    let before = api.get("demo").await.unwrap();
    // A label wakes the operator; the node's heartbeat, and a new label on the node, do too.
    let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
    let touched = api.patch("demo", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(world.admin.clone());
    let label = json!({"metadata": {"labels": {"touched": "yes"}}});
    nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    // Something that the operator does react to comes after both, so both were seen.
    let role = Api::<k8s_openapi::api::rbac::v1::Role>::namespaced(world.admin.clone(), NAMESPACE);
    let emptied = json!({"rules": []});
    role.patch("demo-signer", &PatchParams::default(), &Patch::Merge(emptied)).await.unwrap();
    let again = json!({"metadata": {"labels": {"touched": "again"}}});
    let last = api.patch("demo", &PatchParams::default(), &Patch::Merge(again)).await.unwrap();
    eventually("the role", || async {
        let role = role.get("demo-signer").await.unwrap();
        if role.rules.is_some_and(|rules| rules.len() == 3) { Ok(()) } else { Err("empty".into()) }
    })
    .await;
    let after = api.get("demo").await.unwrap();
    assert_eq!(after.resource_version(), last.resource_version(), "the status was written again");
    assert_eq!(before.status, touched.status);
    assert_eq!(before.status, after.status);
}

async fn events_tell_the_story(world: &World) {
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    let reasons: BTreeSet<_> =
        events.items.iter().filter_map(|event| event.reason.clone()).collect();
    for reason in ["NoMatchingNode", "PodCreated", "RingChanged", "AllMembersActive"] {
        assert!(reasons.contains(reason), "{reason} is not in {reasons:?}");
    }
}

/// The very first status that anybody can see is complete.
#[tokio::test]
async fn the_first_status_write_is_complete() {
    let world = World::start(&json!({})).await;
    let api = world.api::<SignerPool>();
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version;
    let mut changes =
        api.watch(&WatchParams::default(), &version.unwrap_or_default()).await.unwrap().boxed();
    apply(&world.admin, &pool()).await.unwrap();
    let first = tokio::time::timeout(super::fixture::DEADLINE, async {
        loop {
            if let WatchEvent::Added(pool) | WatchEvent::Modified(pool) =
                changes.next().await.unwrap().unwrap()
                && let Some(status) = pool.status
            {
                return (pool.metadata.generation, status);
            }
        }
    })
    .await
    .expect("no status");
    let (generation, status) = first;
    assert_eq!(Some(status.observed_generation), generation);
    let types: Vec<_> = status.conditions.iter().map(|one| one.type_).collect();
    assert_eq!(types, ConditionType::OF_POOL);
    for condition in &status.conditions {
        assert_eq!(Some(condition.observed_generation), generation, "{condition:?}");
    }
    let stalled =
        world.wait_for(ConditionType::Stalled, ConditionStatus::True, "MeasurementsUnknown").await;
    assert!(stalled.message.contains("value measurements"), "{stalled:?}");
    world.operator.stop().await.unwrap();
}

/// A pool in a namespace that goes away is let go, and nothing is asked or made there.
#[tokio::test]
async fn a_terminating_namespace_is_not_held_up() {
    let world = World::start(&measurements(IMAGE)).await;
    world.add_node().await;
    apply(&world.admin, &pool()).await.unwrap();
    world.run_pod().await;
    Api::<k8s_openapi::api::core::v1::Namespace>::all(world.admin.clone())
        .delete(NAMESPACE, &DeleteParams::default())
        .await
        .unwrap();
    // Without controllers nobody deletes what is in it; the namespace controller would.
    world.api::<SignerPool>().delete("demo", &DeleteParams::default()).await.unwrap();
    eventually("the end of the pool", || async {
        let pool = world.api::<SignerPool>().get_opt("demo").await.unwrap();
        pool.map_or(Ok(()), |pool| Err(format!("{pool:?}")))
    })
    .await;
    world.operator.stop().await.unwrap();
}

/// A pool beside an application of the same name: what the application made stays as it is.
#[tokio::test]
async fn what_an_application_made_is_not_taken_over() {
    let world = World::start(&measurements(IMAGE)).await;
    world.add_node().await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "demo"}}}});
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "demo-0-settings", "namespace": NAMESPACE}, "data": {"color": "blue"}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "demo-signer", "namespace": NAMESPACE}});
    // Of our own kind, but without the label by which the operator finds its own.
    let allocation = json!({"apiVersion": "sigil.dev/v1alpha1", "kind": "EnclaveAllocation",
        "metadata": {"name": "demo-0", "namespace": NAMESPACE},
        "spec": {"pool": "other", "slot": 0, "node": "node-9", "launcher": "process",
            "cpuCount": 2, "memoryMiB": 128}});
    let mut before = Vec::new();
    for object in [&budget, &settings, &account, &allocation] {
        before.push(apply(&world.admin, object).await.unwrap());
    }
    apply(&world.admin, &pool()).await.unwrap();
    let stalled =
        world.wait_for(ConditionType::Stalled, ConditionStatus::True, "ObjectNotOurs").await;
    for name in ["PodDisruptionBudget demo", "ConfigMap demo-0-settings", "ServiceAccount demo-sig"]
    {
        assert!(stalled.message.contains(name), "{stalled:?}");
    }
    world.wait_for(ConditionType::Reconciling, ConditionStatus::True, "ApplyFailed").await;
    for (object, before) in [&budget, &settings, &account, &allocation].into_iter().zip(before) {
        // Applying the same again is how this test reads any kind: it changes nothing.
        let after = apply(&world.admin, object).await.unwrap();
        assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "{object}");
    }
    assert!(world.api::<Pod>().get_opt("demo-0").await.unwrap().is_none());
    world.operator.stop().await.unwrap();
}
