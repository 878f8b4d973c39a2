//! What gRPC's own tools are told at the socket.

use super::*;
use tokio_stream::StreamExt as _;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

#[tokio::test]
async fn tools_learn_what_is_served_and_whether_it_works() {
    let site = start().await;
    let controller = node::local::Program { name: "controller", start: "umbra-controller serve" };
    let channel = node::local::connect(&site.folder.path().join("admin.sock"), controller).await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let said = health.check(HealthCheckRequest { service: "umbra.admin.v1.Admin".to_owned() }).await.unwrap();
    assert_eq!(said.get_ref().status(), ServingStatus::Serving);

    let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let questions = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("umbra.admin.v1.Admin.AddUser".to_owned())),
    ]);
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(questions).await.unwrap().into_inner();
    let answers: Vec<ServerReflectionResponse> = answers.map(Result::unwrap).collect().await;
    let Some(MessageResponse::ListServicesResponse(listed)) = &answers[0].message_response else {
        panic!("{answers:?}")
    };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["umbra.admin.v1.Admin", "grpc.health.v1.Health"]);
    let Some(MessageResponse::FileDescriptorResponse(files)) = &answers[1].message_response else {
        panic!("{answers:?}")
    };
    assert!(files.file_descriptor_proto.iter().any(|file| String::from_utf8_lossy(file).contains("AddUserRequest")));
}
