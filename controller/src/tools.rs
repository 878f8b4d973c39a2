//! How does a tool find out what the controller understands, and whether it works? By gRPC's own two services, health checking
//! (`grpc.health.v1`) and server reflection (`grpc.reflection.v1`), at the controller's own socket and nowhere else.

use crate::authz::ADMIN_SERVICE;
use model::limits::HEALTH_LOOK_EVERY;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{FILE_DESCRIPTOR_SET, HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// Asks whether the controller works.
pub type Alive = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Answers whether the controller works, found out for each question.
pub struct Checked(Alive);

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checked")
    }
}

/// The service that says whether the controller works.
pub fn health(alive: Alive) -> HealthServer<Checked> {
    HealthServer::new(Checked(alive))
}

/// The service that says which calls there are, and what their messages consist of.
pub fn reflection() -> Option<ServerReflectionServer<impl ServerReflection>> {
    let built = Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .with_service_name(ADMIN_SERVICE)
        .with_service_name("grpc.health.v1.Health")
        .build_v1();
    built.inspect_err(|error| tracing::error!(%error, "no tool can ask which calls there are")).ok()
}

/// The whole server (no name), or the one service that there is.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == ADMIN_SERVICE
}

async fn look(alive: &Alive) -> HealthCheckResponse {
    let status = if alive().await { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Checked {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found(format!("there is no such service: ask for `{ADMIN_SERVICE}` or for none")));
        }
        Ok(Response::new(look(&self.0).await))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    /// The first answer at once, then each change; it ends with whoever asked.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (alive, known) = (Arc::clone(&self.0), is_known(&request.get_ref().service));
        let (told, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None;
            while !told.is_closed() {
                let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
                let now = if known { look(&alive).await } else { unknown };
                if last.replace(now) != Some(now) && told.send(Ok(now)).await.is_err() {
                    return;
                }
                let _ = tokio::time::timeout(HEALTH_LOOK_EVERY, told.closed()).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio_stream::StreamExt as _;

    fn switched() -> (Arc<AtomicBool>, Checked) {
        let works = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&works);
        let alive: Alive = Arc::new(move || {
            let works = asked.load(Ordering::Relaxed);
            Box::pin(async move { works })
        });
        (works, Checked(alive))
    }

    fn about(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn it_is_looked_at_each_question() {
        let (works, health) = switched();
        let status = async |service| health.check(about(service)).await.map(|said| said.get_ref().status());
        assert_eq!(status("").await.unwrap(), ServingStatus::Serving);
        works.store(false, Ordering::Relaxed);
        assert_eq!(status(ADMIN_SERVICE).await.unwrap(), ServingStatus::NotServing);
        assert_eq!(status("umbra.v1.Devices").await.unwrap_err().code(), tonic::Code::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_hears_the_first_answer_and_each_change() {
        let (works, health) = switched();
        let mut answers = health.watch(about("")).await.unwrap().into_inner();
        let mut next = async || answers.next().await.unwrap().unwrap().status();
        assert_eq!(next().await, ServingStatus::Serving);
        works.store(false, Ordering::Relaxed);
        let asked = tokio::time::Instant::now();
        assert_eq!(next().await, ServingStatus::NotServing);
        assert!(asked.elapsed() <= HEALTH_LOOK_EVERY);
        let mut unknown = health.watch(about("nothing")).await.unwrap().into_inner();
        assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    }

    #[test]
    fn reflection_knows_all_that_is_served() {
        assert!(reflection().is_some());
    }
}
