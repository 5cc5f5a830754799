//! One bad object never stops a watch.

use kube::Api;
use serde_json::json;
use sigil_crds::SignerPool;

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
}
