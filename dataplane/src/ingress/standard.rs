//! gRPC's own services beside ours: `grpc.health.v1`, for probes that know nothing of us, and
//! `grpc.reflection.v1`, for tools that read the contract from the process.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService, health_reporter};
use tower::Service;

use crate::status::MemberStatus;
use crate::v1;
use crate::v1::signer_service_server::SignerServiceServer;

/// Bytes of a request to these services; ours are names.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// What health is asked about: our service, or with an empty name the process.
const SERVICES: [&str; 2] = [<SignerServiceServer<super::grpc::Face> as NamedService>::NAME, ""];

type Answer = http::Response<tonic::body::Body>;
type Call = dyn Fn(http::Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync;

/// Both services, the same for every worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Standard {
    reporter: HealthReporter,
    health: Arc<Call>,
    reflection: Arc<Call>,
}

impl Standard {
    /// Not serving until [`Standard::follow`] says so.
    pub(crate) async fn new() -> Result<Self, tonic_reflection::server::Error> {
        let (reporter, _) = health_reporter();
        set(&reporter, false).await;
        let health = tonic_health::pb::health_server::HealthServer::new(
            HealthService::from_health_reporter(reporter.clone()),
        )
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { reporter, health: callable(health), reflection: callable(reflection) })
    }

    /// The service that answers at `path`, unless it is ours.
    pub(super) fn at(&self, path: &str) -> Option<&Call> {
        if path.starts_with("/grpc.health.v1.Health/") {
            Some(&*self.health)
        } else if path.starts_with("/grpc.reflection.v1.ServerReflection/") {
            Some(&*self.reflection)
        } else {
            None
        }
    }

    /// Says what `readyz` says, until `stop`; then that nothing is served any more.
    pub(crate) async fn follow(
        self,
        mut status: watch::Receiver<MemberStatus>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut said = false;
        loop {
            let ready = status.borrow_and_update().is_ready();
            // Whoever watches hears of changes only.
            if ready != said {
                set(&self.reporter, ready).await;
            }
            said = ready;
            tokio::select! {
                changed = status.changed() => if changed.is_err() { break },
                () = super::stopped(&mut stop) => break,
            }
        }
        set(&self.reporter, false).await;
    }
}

async fn set(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

fn callable<S>(service: S) -> Arc<Call>
where
    S: Service<http::Request<Incoming>, Response = Answer, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Arc::new(move |request| {
        // tonic's services are always ready.
        let answer = service.clone().call(request);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        })
    })
}

#[cfg(test)]
mod tests;
