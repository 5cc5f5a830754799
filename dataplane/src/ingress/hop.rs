//! The members' face: requests of other dataplanes, answered by our own enclave or not at all. Nothing
//! that comes in here is sent on, so no loop of members can form, whatever their rings say.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use sigil_enclave_client::KeyId;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use super::grpc::{Call, taken, to_created, to_result};
use super::idle::Connection;
use super::peer::Peer;
use crate::app::{App, Asker, CreateRequest, Done, Many, SignRequest};
use crate::config::live::Live;
use crate::error::{Code, Error};
use crate::hop_v1::hop_server::Hop;
use crate::hop_v1::{CreateHop, SignAnswer, SignAnswers, SignHop, SignHops};
use crate::metrics::Method;
use crate::v1;

/// Path of every method.
const PREFIX: &str = "/sigil.hop.v1.Hop/";
/// Requests of one message, as to an enclave.
const HOPS_MAX: usize = 32;
/// Requests of one stream that are under way, as many as a member queues for us.
const IN_FLIGHT_MAX: usize = 1_024;

/// The service over one worker's application.
#[derive(Clone)]
pub(crate) struct Members {
    pub(super) app: Arc<App>,
    pub(super) live: Arc<Live>,
}

/// The answers to one member.
pub(crate) struct Answers {
    members: Members,
    /// `None`: no more is read. What is under way is answered, then this is the end.
    requests: Option<Streaming<SignHops>>,
    many: Many,
    request_ids: BTreeMap<u64, Arc<str>>,
    /// Of the last request; those of one stream never go back.
    deadline: Instant,
    connection: Arc<Connection>,
    ending: WatchStream<bool>,
}

/// Whether a path is of this face.
pub(super) fn is_hop(path: &str) -> bool {
    path.starts_with(PREFIX)
}

// === impl Members ===

impl Members {
    /// Only members may call: by the name in their certificate, or from this machine where there is no
    /// TLS, which is for development.
    pub(super) fn check(&self, peer: &Peer) -> Result<(), Error> {
        let config = self.live.load();
        let admitted = match peer {
            _ if !config.routing.is_on(config.member.as_ref()) => false,
            // What another member says of its callers is believed: not where anybody could be one.
            Peer::Unix { .. } | Peer::Loopback if self.app.guards.authenticator.is_on() => false,
            Peer::Unix { uid } => *uid == rustix::process::geteuid().as_raw(),
            Peer::Loopback => true,
            Peer::Anonymous => false,
            Peer::Certificate(subject) => config.routing.is_peer(subject.as_str()),
        };
        if admitted {
            return Ok(());
        }
        let detail = "only members of this pool may send requests of others (routing.peerSubjects)";
        Err(Error::new(Code::PermissionDenied, detail).because(format!("a hop of {peer}")))
    }

    /// Who asks, by a member's word.
    fn asker(&self, subject: &str, peer: &Peer, request_id: &Arc<str>) -> Result<Asker, Error> {
        let member = format!("by a hop of {peer}");
        let caller = self.app.guards.authenticator.told_by_member(subject, &member)?;
        Ok(Asker { caller, request_id: Arc::clone(request_id) })
    }

    fn note(&self, epoch: i64) -> i64 {
        let ours = self.app.router.epoch();
        let metrics = &self.app.metrics.routes;
        metrics.hops_received.inc();
        if ours != epoch {
            metrics.hops_of_other_epochs.inc();
        }
        ours
    }
}

#[tonic::async_trait]
impl Hop for Members {
    type SignStream = Answers;

    async fn sign(
        &self,
        request: Request<Streaming<SignHops>>,
    ) -> Result<Response<Answers>, Status> {
        let (call, requests): (Arc<Call>, _) = taken(request)?;
        let connection = Arc::clone(&call.connection);
        Ok(Response::new(Answers {
            members: self.clone(),
            requests: Some(requests),
            many: Many::arrived(Arc::clone(&self.app)),
            request_ids: BTreeMap::new(),
            deadline: Instant::now(),
            ending: WatchStream::new(connection.ending()),
            connection,
        }))
    }

    async fn create(
        &self,
        request: Request<CreateHop>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let (call, hop) = taken(request)?;
        let work = async {
            self.note(hop.epoch);
            let message = hop.request.unwrap_or_default();
            let request = CreateRequest::checked(
                message.keyspace,
                message.idempotency_key,
                message.challenge,
                &message.policy,
                &message.tenant_id,
            )?;
            let asker = self.asker(&hop.subject, &call.connection.peer, &call.request_id)?;
            let made = self.app.create_arrived(&asker, request, key_id(&hop.key_id)?).await?;
            Ok(to_created(made))
        };
        let result: Result<_, Error> = work.await;
        super::log::request(
            &self.app,
            (Method::Create, "hop"),
            &call.request_id,
            call.started.elapsed(),
            result.as_ref().err(),
        );
        result.map(Response::new).map_err(|error| super::grpc::refuse(&error, &call.request_id))
    }
}

fn key_id(bytes: &[u8]) -> Result<KeyId, Error> {
    let wrong = || Error::invalid("keyId", "a hop without a key id of 16 bytes");
    bytes.try_into().map(KeyId).map_err(|_| wrong())
}

fn sign_request(hop: &SignHop) -> Result<SignRequest, Error> {
    let wrong = || Error::invalid("digest", "a hop without a digest of 32 bytes");
    let digest = hop.digest.as_ref().try_into().map_err(|_| wrong())?;
    Ok(SignRequest { key_id: key_id(&hop.key_id)?, digest, der: hop.der })
}

// === impl Answers ===

impl Answers {
    /// Reads all there is, as far as there is room. True if anything came of it.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut read = false;
        while self.many.len() < IN_FLIGHT_MAX
            && let Some(requests) = &mut self.requests
        {
            match Pin::new(requests).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(message))) => {
                    message.hops.into_iter().take(HOPS_MAX).for_each(|hop| self.begin(hop));
                }
                Poll::Ready(None | Some(Err(_))) => self.requests = None,
            }
            read = true;
        }
        read
    }

    fn begin(&mut self, hop: SignHop) {
        self.members.note(hop.epoch);
        let limit = self.members.live.load().limits.request_timeout();
        let left = Duration::from_millis(hop.left_ms.into()).min(limit);
        self.deadline = self.deadline.max(Instant::now() + left);
        self.connection.stream_begins();
        let tag = u64::from(hop.tag);
        let full = || Error::new(Code::Overloaded, "as many requests as may be in flight are");
        let request = sign_request(&hop).and_then(|request| {
            let slot = self.members.app.guards.admission.enter_now();
            slot.unwrap_or_else(|| Err(full())).map(|slot| (request, slot))
        });
        let request_id: Arc<str> = hop.request_id.into();
        self.request_ids.insert(tag, Arc::clone(&request_id));
        let peer = &self.connection.peer;
        match self.members.asker(&hop.subject, peer, &request_id) {
            Ok(asker) => self.many.begin(&asker, tag, request, self.deadline),
            Err(error) => self.many.refuse(tag, error),
        }
    }

    fn answer(&mut self, done: Done) -> SignAnswer {
        self.connection.stream_ends(1);
        let request_id = self.request_ids.remove(&done.tag).unwrap_or_else(|| "".into());
        let error = done.result.as_ref().err();
        let (app, took) = (&self.members.app, done.begun.elapsed());
        super::log::request(app, (Method::Sign, "hop"), &request_id, took, error);
        let tag = u32::try_from(done.tag).unwrap_or(u32::MAX);
        SignAnswer { tag, result: Some(to_result(done.result)) }
    }
}

impl Stream for Answers {
    type Item = Result<SignAnswers, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut answers = Vec::new();
        loop {
            while answers.len() < HOPS_MAX
                && let Poll::Ready(Some(done)) = this.many.poll_done(cx)
            {
                answers.push(this.answer(done));
            }
            if !answers.is_empty() {
                return Poll::Ready(Some(Ok(SignAnswers { answers })));
            }
            if !this.read(cx) {
                break;
            }
        }
        while let Poll::Ready(change) = Pin::new(&mut this.ending).poll_next(cx) {
            if change != Some(false) {
                this.requests = None;
                break;
            }
        }
        if this.requests.is_some() || this.many.len() > 0 {
            return Poll::Pending;
        }
        Poll::Ready(None)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.connection.stream_ends(self.many.len());
    }
}
