//! One operator leads; it gives the lease back when it stops and ends when it loses it.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sigil_operator::runtime::RunError;

use super::fixture::{Operator, SYSTEM, eventually, install_chart};
use super::server::Server;

async fn wait_for_holder(leases: &Api<Lease>, wanted: Option<&str>) {
    eventually("the holder of the lease", || async {
        let lease = leases.get_opt("sigil-operator").await.unwrap();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        if holder.as_deref() == wanted { Ok(()) } else { Err(format!("{holder:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_lease_is_given_back_on_stop_and_another_takes_over() {
    let server = Server::start().await;
    let client = install_chart(&server, &json!({})).await;
    let leases = Api::<Lease>::namespaced(server.admin(), SYSTEM);
    let first = Operator::start(client.clone(), "first");
    wait_for_holder(&leases, Some("first")).await;
    let second = Operator::start(client, "second");
    first.stop().await.unwrap();
    wait_for_holder(&leases, Some("second")).await;
    second.stop().await.unwrap();
    wait_for_holder(&leases, None).await;
}

#[tokio::test]
async fn losing_the_lease_ends_the_process() {
    let server = Server::start().await;
    let client = install_chart(&server, &json!({})).await;
    let leases = Api::<Lease>::namespaced(server.admin(), SYSTEM);
    let operator = Operator::start(client, "first");
    wait_for_holder(&leases, Some("first")).await;
    let thief = json!({"spec": {"holderIdentity": "thief"}});
    let parameters = PatchParams::default();
    leases.patch("sigil-operator", &parameters, &Patch::Merge(thief)).await.unwrap();
    let error = operator.ended().await.unwrap_err();
    assert!(matches!(error, RunError::LeaseLost(_)), "{error}");
    assert_eq!(error.exit_code(), 2);
    wait_for_holder(&leases, Some("thief")).await;
}
