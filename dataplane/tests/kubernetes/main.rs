//! The member's part in Kubernetes against a real API server, under the rights that the operator
//! gives it: it reports, acknowledges, refuses older rings, and can touch nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

#[path = "../../../operator/tests/api/server.rs"]
mod server;
mod tokens;

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::json;
use server::Server;
use sigil_crds::{EnclaveAllocation, EnclaveStatus, SignerRing};
use sigil_dataplane::config::Member;
use sigil_dataplane::kubernetes::Kubernetes;
use sigil_dataplane::router::Table;
use sigil_dataplane::router::membership::{MembershipWatch, Memberships};
use sigil_dataplane::status::StatusWriter;
use tokio::time::interval;

/// For a machine that is busy with other builds.
const DEADLINE: Duration = Duration::from_mins(1);
const NAMESPACE: &str = "sigil-quickstart";

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "{what}");
    }
}

fn object<K: DeserializeOwned>(text: &str) -> K {
    serde_yaml_ng::from_str(text).unwrap()
}

async fn create<K>(api: Api<K>, object: &K)
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), object).await.unwrap();
}

/// The definitions, and the account with the role that the operator renders.
async fn prepare(server: &Server) -> Client {
    let admin = server.admin();
    let definitions = Api::<CustomResourceDefinition>::all(admin.clone());
    for (name, text) in sigil_crds::generate::files().unwrap() {
        create(definitions.clone(), &object(&text)).await;
        eventually(name, || async {
            let found = definitions.get(name.trim_end_matches(".yaml")).await.unwrap();
            let conditions = found.status?.conditions?;
            conditions.iter().find(|one| one.type_ == "Established" && one.status == "True")?;
            Some(())
        })
        .await;
    }
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let namespaces = Api::<Namespace>::all(admin.clone());
    create(namespaces, &serde_json::from_value(namespace).unwrap()).await;
    let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), NAMESPACE);
    let account = json!({"metadata": {"name": "demo-signer"}});
    create(accounts.clone(), &serde_json::from_value(account).unwrap()).await;
    let golden = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../operator/tests/golden");
        std::fs::read_to_string(format!("{folder}/{name}")).unwrap()
    };
    let mut role: Role = object(&golden("role.yaml"));
    let mut binding: RoleBinding = object(&golden("role-binding.yaml"));
    role.metadata.owner_references = None;
    binding.metadata.owner_references = None;
    create(Api::namespaced(admin.clone(), NAMESPACE), &role).await;
    create(Api::namespaced(admin.clone(), NAMESPACE), &binding).await;
    for name in ["demo-0", "other-0"] {
        let allocation = json!({"metadata": {"name": name}, "spec": {"pool": "demo", "slot": 0,
            "node": "node-1", "launcher": "process", "cpuCount": 1, "memoryMiB": 128}});
        let api = Api::<EnclaveAllocation>::namespaced(admin.clone(), NAMESPACE);
        create(api, &typed(allocation, "EnclaveAllocation")).await;
    }
    let token = accounts
        .create_token_request("demo-signer", &PostParams::default(), &TokenRequest::default())
        .await
        .unwrap();
    server.client(&token.status.unwrap().token)
}

fn typed<K: DeserializeOwned>(mut object: serde_json::Value, kind: &str) -> K {
    object["apiVersion"] = "sigil.dev/v1alpha1".into();
    object["kind"] = kind.into();
    serde_json::from_value(object).unwrap()
}

async fn put_ring(admin: &Client, epoch: i64) {
    let ring = json!({"apiVersion": "sigil.dev/v1alpha1", "kind": "SignerRing",
        "metadata": {"name": "demo"}, "spec": {"pool": "demo", "epoch": epoch, "members":
            [{"slot": 0, "node": "node-1", "state": "Joining", "weight": 100}]}});
    let api = Api::<SignerRing>::namespaced(admin.clone(), NAMESPACE);
    let parameters = PatchParams::apply("test").force();
    api.patch("demo", &parameters, &Patch::Apply(ring)).await.unwrap();
}

async fn report_with(admin: &Client, fits: impl Fn(&EnclaveStatus) -> bool) -> EnclaveAllocation {
    let api = Api::<EnclaveAllocation>::namespaced(admin.clone(), NAMESPACE);
    eventually("the report", || async {
        let found = api.get("demo-0").await.unwrap();
        let fits = found.status.as_ref()?.enclave.as_ref().is_some_and(&fits);
        fits.then_some(found)
    })
    .await
}

fn epoch(ring: &MembershipWatch) -> i64 {
    ring.borrow().as_ref().map_or(0, |ring| ring.epoch)
}

#[tokio::test]
async fn a_member_reports_acknowledges_and_refuses_older_rings() {
    let server = Server::start().await;
    let client = prepare(&server).await;
    let admin = server.admin();
    let status = StatusWriter::new(&["default".to_owned()]);
    let member = Member {
        namespace: NAMESPACE.to_owned(),
        pool: "demo".to_owned(),
        allocation: "demo-0".to_owned(),
        node: "node-1".to_owned(),
    };
    let memberships = Memberships::new(Some("demo"));
    let ring = memberships.subscribe();
    let table = std::sync::Arc::new(Table::new(16, Some(0)));
    let served = tokio::spawn(table.run(memberships.clone(), status.clone()));
    let uid = "uid-1".to_owned();
    let kubernetes = Kubernetes::new(client, member, uid, status.subscribe(), memberships);
    let running = tokio::spawn(kubernetes.run());

    let first = report_with(&admin, |report| report.pod_uid == "uid-1").await;
    assert!(!first.status.unwrap().enclave.unwrap().running);
    put_ring(&admin, 3).await;
    status.update(|status| status.running = true);
    report_with(&admin, |report| report.ring_epoch == 3 && report.running).await;

    // The operator's part is not touched by the dataplane's writes.
    let conditions = json!({"apiVersion": "sigil.dev/v1alpha1", "kind": "EnclaveAllocation",
        "metadata": {"name": "demo-0"}, "status": {"conditions": [{"type": "AllocationReady",
            "status": "True", "reason": "NodesReady", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let allocations = Api::<EnclaveAllocation>::namespaced(admin.clone(), NAMESPACE);
    let operator = PatchParams::apply("sigil-operator");
    allocations.patch_status("demo-0", &operator, &Patch::Apply(conditions)).await.unwrap();
    status.update_keyspace("default", |keyspace| keyspace.unlocked = true);
    let unlocked = report_with(&admin, |report| report.keyspaces[0].unlocked).await;
    assert_eq!(unlocked.status.unwrap().conditions.len(), 1);

    // Somebody deletes the ring and makes an older one: it is refused, the next is taken.
    let rings = Api::<SignerRing>::namespaced(admin.clone(), NAMESPACE);
    rings.delete("demo", &DeleteParams::default()).await.unwrap();
    put_ring(&admin, 2).await;
    put_ring(&admin, 4).await;
    eventually("the next ring", || async { (epoch(&ring) == 4).then_some(()) }).await;
    report_with(&admin, |report| report.ring_epoch == 4).await;
    running.abort();
    served.abort();
}

/// The account of a pool's pods reads its ring and writes its report, and that is all.
#[tokio::test]
async fn the_account_of_a_member_can_do_nothing_else() {
    let server = Server::start().await;
    let client = prepare(&server).await;
    put_ring(&server.admin(), 1).await;
    let rings = Api::<SignerRing>::namespaced(client.clone(), NAMESPACE);
    rings.get("demo").await.unwrap();
    let allocations = Api::<EnclaveAllocation>::namespaced(client.clone(), NAMESPACE);
    allocations.get("demo-0").await.unwrap();
    let none = PatchParams::default();
    let spec = Patch::Merge(json!({"spec": {"memoryMiB": 256}}));
    let epoch = Patch::Merge(json!({"spec": {"epoch": 9}}));
    let status = Patch::Merge(json!({"status": {"conditions": []}}));
    let refused = [
        rings.get("other").await.map(drop),
        rings.list(&kube::api::ListParams::default()).await.map(drop),
        rings.patch("demo", &none, &epoch).await.map(drop),
        allocations.get("other-0").await.map(drop),
        allocations.patch("demo-0", &none, &spec).await.map(drop),
        allocations.patch_status("other-0", &none, &status).await.map(drop),
        Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client, NAMESPACE)
            .get("test-kms")
            .await
            .map(drop),
    ];
    for (index, answer) in refused.into_iter().enumerate() {
        match answer {
            Err(kube::Error::Api(answer)) => assert_eq!(answer.code, 403, "{index}: {answer:?}"),
            other => panic!("{index}: {other:?}"),
        }
    }
}
