//! What the machine gives runs out.

use serde_json::json;
use sigil_dataplane::v1::SignRequest;
use tokio::net::UnixStream;

use crate::support::{Bench, Settings, eventually};

/// What the process itself has open (sockets to the enclave, store, listeners) and some 20 callers.
const FILES: u32 = 64;

#[tokio::test]
async fn out_of_file_descriptors_open_connections_are_served_and_others_when_some_are_free() {
    let bench = Bench::with(Settings { files_max: Some(FILES), ..Settings::default() }).await;
    let created = bench.create(&json!({})).await;
    let request = SignRequest {
        key_id: created["keyId"].as_str().unwrap().to_owned(),
        digest: vec![0x42; 32].into(),
        ..SignRequest::default()
    };
    let mut grpc = bench.grpc().await;
    grpc.sign(request.clone()).await.unwrap();

    let mut idle = Vec::new();
    for _ in 0..FILES {
        idle.push(UnixStream::connect(bench.path("public.sock")).await.unwrap());
    }
    eventually("no descriptor is left", async || {
        (!bench.logged("accept failed").is_empty()).then_some(())
    })
    .await;
    for _ in 0..20 {
        grpc.sign(request.clone()).await.unwrap();
    }
    let line = bench.logged("accept failed").remove(0);
    assert!(line["error"].as_str().unwrap().contains("os error 24"), "{line}");

    drop(idle);
    bench.assert_signs(&created).await;
    let another = bench.create(&json!({})).await;
    bench.assert_signs(&another).await;
}
