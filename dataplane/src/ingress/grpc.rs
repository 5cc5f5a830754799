//! The gRPC face: the same requests and errors in Protobuf.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::SIGN_STREAMS_PER_CONNECTION_MAX;
use super::idle::Connection;
use super::request_id;
use super::sign_stream::{Answers, Opened};
use crate::app::{
    App, Asked, Asker, CreateRequest, Created, KeyInfo, SignRequest, Signed, checked_batch_size,
    checked_key_id, checked_keyspace, refuse_tenant,
};
use crate::config::live::Live;
use crate::error::{Code, Error};
use crate::metrics::Method;
use crate::v1;
use crate::v1::signer_service_server::SignerService;

/// The service over one worker's application.
#[derive(Clone)]
pub(crate) struct Face {
    pub(super) app: Arc<App>,
    pub(super) live: Arc<Live>,
    /// Places of open `SignStream`s.
    pub(super) streams: Arc<Semaphore>,
}

/// What is known of a call before its message is read.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    pub(super) request_id: Arc<str>,
    /// Who asks; known before the message is read.
    pub(super) asker: Option<Asker>,
    /// When its head was read.
    pub(super) started: Instant,
    /// When a unary call ends: by `grpc-timeout` or by our own limit, whichever is first.
    pub(super) deadline: Instant,
    /// When `grpc-timeout` ends a stream, if there is one.
    stream_deadline: Option<Instant>,
    pub(super) connection: Arc<Connection>,
}

/// Whether a request is one of gRPC. Other kinds (gRPC-Web, JSON in frames) are not spoken here.
pub(super) fn speaks(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let Some(rest) = kind.as_bytes().strip_prefix(b"application/grpc") else { return false };
    let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
    matches!(rest.first(), None | Some(b';' | b' '))
}

// === impl Call ===

impl Call {
    /// The call, and whether its head is valid. A call that is not has its id and our own limit.
    pub(super) fn of<B>(
        request: &http::Request<B>,
        (started, limit): (Instant, Duration),
        connection: &Arc<Connection>,
    ) -> (Self, Result<(), Error>) {
        let headers = request.headers();
        let method = match request.uri().path().rsplit('/').next() {
            Some("Create") => Method::Create,
            Some("Sign") => Method::Sign,
            Some("SignBatch") => Method::SignBatch,
            Some("SignStream") => Method::SignStream,
            Some("GetKey") => Method::GetKey,
            Some("ListKeys") => Method::ListKeys,
            _ => Method::Other,
        };
        let given = headers.get("grpc-timeout").map(HeaderValue::as_bytes).map(timeout);
        let (given, valid) = match given.transpose() {
            Ok(given) => (given, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let call = Self {
            method,
            request_id: request_id::of(headers),
            asker: None,
            started,
            deadline: started + given.map_or(limit, |given| given.min(limit)),
            stream_deadline: given.map(|given| started + given),
            connection: Arc::clone(connection),
        };
        (call, valid)
    }

    fn asker(&self) -> Result<&Asker, Error> {
        self.asker.as_ref().ok_or_else(|| Error::internal("a call without its caller"))
    }

    fn asked(&self) -> Result<Asked<'_>, Error> {
        Ok(Asked { asker: self.asker()?, deadline: self.deadline })
    }

    /// The call's refusal, with the bookkeeping that every call has.
    pub(super) fn refused(&self, app: &App, error: &Error) -> http::Response<Body> {
        super::ended(app, (self.method, "grpc"), &self.request_id, self.started, Some(error));
        refuse(error, &self.request_id).into_http()
    }

    /// What tonic itself refuses (a method that there is not, a message that is too long or none) is said
    /// in the contract's words. Every answer has the call's id.
    pub(super) fn in_our_words(
        &self,
        app: &App,
        response: http::Response<Body>,
    ) -> http::Response<Body> {
        if response.headers().contains_key(&request_id::HEADER) {
            return response;
        }
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != tonic::Code::Ok => {
                self.refused(app, &refused_by_tonic(&status))
            }
            _ => self.with_id(response),
        }
    }

    /// The answer with the call's id.
    pub(super) fn with_id(&self, mut response: http::Response<Body>) -> http::Response<Body> {
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            response.headers_mut().insert(&request_id::HEADER, id);
        }
        response
    }
}

fn refused_by_tonic(status: &Status) -> Error {
    let message = status.message();
    let error = match status.code() {
        tonic::Code::Unimplemented if message.contains("compress") => {
            let detail = "compressed messages are not taken; leave grpc-encoding out";
            Error::invalid("grpc-encoding", detail).with_grpc(tonic::Code::Unimplemented)
        }
        tonic::Code::Unimplemented => {
            let detail = "there is no such method; grpc.reflection.v1 lists those that there are";
            Error::invalid("method", detail)
                .with_grpc(tonic::Code::Unimplemented)
                .with_http_status(404)
        }
        tonic::Code::OutOfRange => {
            Error::invalid("body", "the message is longer than this listener takes")
                .with_http_status(413)
        }
        _ => Error::invalid("body", "the request is not one message of this method"),
    };
    error.because(message)
}

// === impl Face ===

impl Face {
    /// Runs one call with the bookkeeping that every call has. Its deadline is kept around it.
    async fn call<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let result = work.await;
        let error = result.as_ref().err();
        // Items of a batch and requests of a stream are counted where they end.
        if error.is_some() || !matches!(call.method, Method::SignBatch | Method::SignStream) {
            super::ended(&self.app, (call.method, "grpc"), &call.request_id, call.started, error);
        }
        match result {
            Ok(message) => {
                let mut response = Response::new(message);
                insert(response.metadata_mut(), "x-request-id", &call.request_id);
                Ok(response)
            }
            Err(error) => Err(refuse(&error, &call.request_id)),
        }
    }
}

/// The call that the ingress has put beside the message.
pub(super) fn taken<T>(request: Request<T>) -> Result<(Arc<Call>, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    let call = extensions.remove().ok_or_else(|| Status::internal("no call"))?;
    Ok((call, message))
}

#[tonic::async_trait]
impl SignerService for Face {
    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let (call, message) = taken(request)?;
        let work = async {
            let created = self.app.create_anywhere(call.asked()?, checked_create(message)?).await?;
            Ok(to_created(created))
        };
        self.call(&call, work).await
    }

    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        let (call, message) = taken(request)?;
        let work = async {
            let signed = self.app.sign_anywhere(call.asked()?, checked(&message)?).await?;
            Ok(to_response(signed))
        };
        self.call(&call, work).await
    }

    async fn sign_batch(
        &self,
        request: Request<v1::SignBatchRequest>,
    ) -> Result<Response<v1::SignBatchResponse>, Status> {
        let (call, message) = taken(request)?;
        let work = async {
            checked_batch_size(message.requests.len())?;
            let requests = message.requests.iter().map(checked).collect();
            let results = self.app.sign_batch(call.asked()?, requests).await?;
            super::batch_ended(&self.app, "grpc", &call.request_id, call.started, &results);
            Ok(v1::SignBatchResponse { results: results.into_iter().map(to_result).collect() })
        };
        self.call(&call, work).await
    }

    type SignStreamStream = Answers;

    async fn sign_stream(
        &self,
        request: Request<Streaming<v1::SignStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (call, requests) = taken(request)?;
        let work = async {
            let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
                Error::new(Code::Overloaded, "as many streams as one worker serves are open")
            })?;
            let of_connection = call.connection.open_stream(SIGN_STREAMS_PER_CONNECTION_MAX);
            let open = of_connection.ok_or_else(|| {
                let why =
                    "as many streams as one connection may have are open; open another connection";
                Error::new(Code::Overloaded, why)
            })?;
            let opened = Opened {
                asker: call.asker()?.clone(),
                deadline: call.stream_deadline,
                connection: Arc::clone(&call.connection),
                _place: place,
                _open: open,
            };
            Ok(Answers::new(self.clone(), requests, opened))
        };
        self.call(&call, work).await
    }

    async fn get_key(
        &self,
        request: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        let (call, message) = taken(request)?;
        let work = async {
            refuse_tenant(&message.tenant_id)?;
            let key = self.app.key(call.asker()?, checked_key_id(&message.key_id)?).await?;
            Ok(v1::GetKeyResponse { key: Some(to_message(&key)) })
        };
        self.call(&call, work).await
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let (call, message) = taken(request)?;
        let work = async {
            refuse_tenant(&message.tenant_id)?;
            let keyspace = checked_keyspace(message.keyspace)?;
            let after = match message.page.as_str() {
                "" => None,
                page => Some(checked_key_id(page).map_err(|_| {
                    Error::invalid("page", "page must be `next_page` of the answer before")
                })?),
            };
            let page = self.app.keys(call.asker()?, &keyspace, after).await?;
            Ok(v1::ListKeysResponse {
                keys: page.keys.iter().map(to_message).collect(),
                next_page: page.next.map(|id| id.to_string()).unwrap_or_default(),
            })
        };
        self.call(&call, work).await
    }
}

/// What both faces mean by it.
pub(super) fn checked_create(message: v1::CreateRequest) -> Result<CreateRequest, Error> {
    CreateRequest::checked(
        message.keyspace,
        message.idempotency_key,
        message.challenge,
        &message.policy,
        &message.tenant_id,
    )
}

/// What both faces mean by it.
pub(super) fn checked(message: &v1::SignRequest) -> Result<SignRequest, Error> {
    SignRequest::checked(
        &message.key_id,
        &message.digest,
        message.der,
        &message.authorization,
        &message.tenant_id,
    )
}

pub(super) fn to_created(created: Created) -> v1::CreateResponse {
    v1::CreateResponse {
        key_id: created.key_id.to_string(),
        keyspace: created.keyspace,
        public_key: Bytes::copy_from_slice(&created.public_key),
        birth: Some(v1::Birth {
            statement: created.birth.statement,
            signature: created.birth.signature,
            document_hash: Bytes::copy_from_slice(&created.birth.document_hash),
            document: created.birth.document,
        }),
    }
}

fn to_response(signed: Signed) -> v1::SignResponse {
    v1::SignResponse {
        key_id: signed.key_id.to_string(),
        public_key: Bytes::copy_from_slice(&signed.public_key),
        signature: Bytes::copy_from_slice(&signed.signature),
        recovery_id: signed.recovery_id.into(),
        der: signed.der.unwrap_or_default().into(),
    }
}

/// One of several.
pub(crate) fn to_result(result: Result<Signed, Error>) -> v1::SignResult {
    use v1::sign_result::Result as Either;
    let either = match result {
        Ok(signed) => Either::Signed(to_response(signed)),
        Err(error) => Either::Error(v1::Error {
            code: error.code.row().name.to_owned(),
            detail: error.detail.into_owned(),
            field: error.field.unwrap_or_default().into_owned(),
            retry_after_ms: error.retry_after_ms.unwrap_or_default(),
            unlock_request_id: error.unlock_request_id.unwrap_or_default(),
        }),
    };
    v1::SignResult { result: Some(either) }
}

fn to_message(key: &KeyInfo) -> v1::Key {
    v1::Key {
        key_id: key.key_id.to_string(),
        keyspace: key.keyspace.clone(),
        public_key: Bytes::copy_from_slice(&key.public_key),
        created_ms: key.created_ms,
    }
}

/// `grpc-timeout`: at most eight digits and a unit, by the gRPC specification.
fn timeout(text: &[u8]) -> Result<Duration, Error> {
    let bad = || {
        let detail = "grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n";
        Error::invalid("grpc-timeout", detail)
    };
    let (unit, digits) = text.split_last().ok_or_else(bad)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_hours(value)),
        b'M' => Ok(Duration::from_mins(value)),
        b'S' => Ok(Duration::from_secs(value)),
        b'm' => Ok(Duration::from_millis(value)),
        b'u' => Ok(Duration::from_micros(value)),
        b'n' => Ok(Duration::from_nanos(value)),
        _ => Err(bad()),
    }
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(name, value);
    }
}

pub(crate) fn refuse(error: &Error, request_id: &str) -> Status {
    let row = error.code.row();
    let mut metadata = MetadataMap::new();
    insert(&mut metadata, "x-request-id", request_id);
    insert(&mut metadata, "sigil-code", row.name);
    if let Some(field) = &error.field {
        insert(&mut metadata, "sigil-field", field);
    }
    if let Some(hint) = error.retry_after_ms {
        insert(&mut metadata, "retry_after_ms", &hint.to_string());
        insert(&mut metadata, "grpc-retry-pushback-ms", &hint.to_string());
    }
    if error.circuit_open {
        insert(&mut metadata, "x-circuit-breaker", "open");
    }
    if let Some(id) = &error.unlock_request_id {
        insert(&mut metadata, "x-unlock-request-id", id);
    }
    Status::with_metadata(error.grpc(), error.detail.clone(), metadata)
}

#[cfg(test)]
mod tests;
