//! One bad object never stops a watch.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::json;
use sigil_crds::SignerPool;
use sigil_operator::names::FINALIZER;
use sigil_operator::signer_pool::plan::DELETE_TIMEOUT_S;
use sigil_operator::signer_pool::unreadable::let_go;

use super::fixture::{Operator, apply, documents, eventually, install_chart, namespace};
use super::server::Server;

/// A pool from a newer version, whose definition this operator does not know, beside a good one.
#[tokio::test]
async fn a_pool_that_cannot_be_read_does_not_stop_the_others() {
    let server = Server::start().await;
    let client = install_chart(&server, &json!({})).await;
    let admin = server.admin();
    namespace(&admin, "pools").await;
    let (_, text) = sigil_crds::generate::files().unwrap().swap_remove(0);
    let mut newer = documents(&text).remove(0);
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["enclave"]["properties"]["launcher"]["enum"]
        .as_array_mut()
        .unwrap()
        .push("from-the-future".into());
    apply(&admin, &newer).await.unwrap();
    let pool = |name: &str, launcher: &str| {
        json!({
            "apiVersion": "sigil.dev/v1alpha1", "kind": "SignerPool",
            "metadata": {"name": name, "namespace": "pools"},
            "spec": {
                "nodes": {"replicas": 1},
                "enclave": {"launcher": launcher, "image": "example.com/enclave:1",
                    "cpuCount": 2, "memoryMiB": 128},
                "dataplane": {"image": "example.com/dataplane:1"},
                "keyspaces": [{"name": "default"}],
                "store": {"engine": "embedded", "embedded": {"sizeMiB": 64}},
            },
        })
    };
    eventually("the wider definition", || async {
        apply(&admin, &pool("bad", "from-the-future")).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    let operator = Operator::start(client, "operator");
    apply(&admin, &pool("good", "process")).await.unwrap();
    let pools = Api::<SignerPool>::namespaced(admin, "pools");
    eventually("the status of the good pool", || async {
        let good = pools.get("good").await.unwrap();
        good.status.map(drop).ok_or_else(|| "no status".to_owned())
    })
    .await;
    operator.stop().await.unwrap();
    unreadable_pools_end(&server.admin()).await;
}

/// The bad pool is held for as long as any, then let go, though nobody can read it.
async fn unreadable_pools_end(admin: &Client) {
    let pools = Api::<PartialObjectMeta<SignerPool>>::namespaced(admin.clone(), "pools");
    let held = json!({"metadata": {"finalizers": [FINALIZER, "example.com/other"]}});
    let merge = PatchParams::default();
    pools.patch_metadata("bad", &merge, &Patch::Merge(held)).await.unwrap();
    let alive = pools.get_metadata("bad").await.unwrap().metadata;
    let begin = Timestamp::now();
    let late = begin + SignedDuration::from_secs(DELETE_TIMEOUT_S + 60);
    assert_eq!(let_go(admin, &alive, late).await.unwrap(), None);
    assert_eq!(pools.get_metadata("bad").await.unwrap().metadata.finalizers, alive.finalizers);
    pools.delete("bad", &DeleteParams::default()).await.map(drop).unwrap();
    let going = pools.get_metadata("bad").await.unwrap().metadata;
    let left = let_go(admin, &going, begin).await.unwrap();
    assert!(left.is_some_and(|left| left.as_secs() >= DELETE_TIMEOUT_S.unsigned_abs()), "{left:?}");
    assert_eq!(pools.get_metadata("bad").await.unwrap().metadata.finalizers, alive.finalizers);
    assert_eq!(let_go(admin, &going, late).await.unwrap(), None);
    let rest = pools.get_metadata("bad").await.unwrap().metadata.finalizers;
    assert_eq!(rest, Some(vec!["example.com/other".to_owned()]), "only ours is removed");
}
