//! Drain: what is under way ends, new work is refused, and who asks is answered.

use std::time::Duration;

use sigil_enclave_protocol::v1::{
    DrainRequest, ErrorCode, HealthRequest, SignBatch, StateRequest, StatsRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::bench::Bench;
use crate::sidecar::{Sidecar, generate, item};

/// Far above an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_drained_enclave_ends_its_streams_and_connections_and_refuses_new_work() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.seal_with_new_dek("default").await;
    let blob = sidecar.create("default", 1).await.blob;
    let (batches, stream) = mpsc::channel(1);
    let mut results = sidecar.client.sign(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let batch = SignBatch { items: vec![item("default", 1, &[7; 32], &blob)] };
    batches.send(batch.clone()).await.unwrap();
    let signed = results.message().await.unwrap().unwrap();
    assert_eq!(signed.results[0].error(), ErrorCode::Ok);

    let mut other = Sidecar::client(&bench, &sidecar.token).await.unwrap();
    let reply = other.drain(DrainRequest {}).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);

    // The stream ends by itself, without an error, although the caller keeps its side open.
    let ended = timeout(PATIENCE, results.message()).await.expect("the stream ends");
    assert!(ended.unwrap().is_none());
    timeout(PATIENCE, batches.closed()).await.expect("and with it the connection");
    let after = sidecar.client.health(HealthRequest {}).await;
    assert!(after.is_err(), "an old connection takes no new call");

    let mut client = Sidecar::client(&bench, &sidecar.token).await.unwrap();
    sidecar.client = client.clone();
    assert!(client.health(HealthRequest {}).await.unwrap().into_inner().draining);
    client.state(StateRequest {}).await.unwrap();
    client.stats(StatsRequest {}).await.unwrap();
    assert_eq!(sidecar.create("default", 2).await.error(), ErrorCode::Draining);
    assert_eq!(sidecar.begin(generate("default")).await.error(), ErrorCode::Draining);
    let refused = sidecar.sign(item("default", 1, &[7; 32], b"")).await;
    assert_eq!(refused.error(), ErrorCode::Draining);
    let again = client.drain(DrainRequest {}).await.unwrap().into_inner();
    assert_eq!(again.error(), ErrorCode::Ok, "a second call changes nothing");
    client.health(HealthRequest {}).await.unwrap();
}
