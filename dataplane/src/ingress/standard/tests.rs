use prost::Message;
use prost_types::{FileDescriptorProto, MethodDescriptorProto};
use tokio_stream::once;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Reported;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::super::tests::{Bench, Channel, origin};
use super::*;
use crate::status::StatusWriter;

async fn asked(health: &mut HealthClient<Channel>, service: &str) -> Reported {
    let request = HealthCheckRequest { service: service.to_owned() };
    health.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_readiness_for_each_service_and_ends_with_the_process() {
    let bench = Bench::new().await;
    let mut health = HealthClient::with_origin(bench.channel().await, origin());
    for service in ["", "signer.v1.SignerService"] {
        assert_eq!(asked(&mut health, service).await, Reported::NotServing, "{service}");
    }
    let unknown = HealthCheckRequest { service: "another.Service".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);

    let request = HealthCheckRequest { service: "signer.v1.SignerService".to_owned() };
    let mut seen = health.watch(request).await.unwrap().into_inner();
    let mut next = async || seen.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, Reported::NotServing);
    let status = StatusWriter::new(&["default".to_owned()]);
    let stop = watch::Sender::new(false);
    let follow = bench.ingress.standard.clone().follow(status.subscribe(), stop.subscribe());
    let following = tokio::spawn(follow);
    for durable in [true, false, true] {
        status.update(|status| status.store_durable = durable);
        let expected = if durable { Reported::Serving } else { Reported::NotServing };
        assert_eq!(next().await, expected);
        assert_eq!(asked(&mut health, "").await, expected);
    }
    stop.send_replace(true);
    assert_eq!(next().await, Reported::NotServing);
    following.await.unwrap();
}

#[tokio::test]
async fn reflection_tells_the_whole_contract() {
    let bench = Bench::new().await;
    let mut client = ServerReflectionClient::with_origin(bench.channel().await, origin());
    let mut ask = async |question| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut answers = client.server_reflection_info(once(request)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(services) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services")
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["signer.v1.SignerService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let symbol = "signer.v1.SignerService".to_owned();
    let MessageResponse::FileDescriptorResponse(files) =
        ask(MessageRequest::FileContainingSymbol(symbol)).await
    else {
        panic!("no file")
    };
    let file = FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
    let methods: Vec<_> = file.service[0].method.iter().map(MethodDescriptorProto::name).collect();
    assert_eq!(methods, ["Create", "Sign", "SignBatch", "SignStream", "GetKey", "ListKeys"]);
    assert!(file.source_code_info.is_none());
}
