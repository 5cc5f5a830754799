//! The gRPC face: the same requests and errors in Protobuf.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::idle::Connection;
use super::sign_stream::{Answers, Opened};
use super::{Started, request_id};
use crate::app::{
    App, CreateRequest, KeyInfo, SignRequest, Signed, checked_batch_size, checked_key_id,
    checked_keyspace,
};
use crate::config::Limits;
use crate::error::{Code, Error};
use crate::metrics::Method;
use crate::v1;
use crate::v1::signer_service_server::SignerService;

/// The service over one worker's application.
#[derive(Clone)]
pub(crate) struct Face {
    pub(super) app: Arc<App>,
    pub(super) limits: Limits,
    /// Places of open `SignStream`s.
    pub(super) streams: Arc<Semaphore>,
}

/// A call that may end before the service is asked.
pub(super) struct Call {
    method: Method,
    request_id: String,
    started: Instant,
}

impl Call {
    pub(super) fn of<B>(request: &http::Request<B>, started: Started) -> Self {
        let given = request.headers().get("x-request-id").map(HeaderValue::as_bytes);
        let method = match request.uri().path().rsplit('/').next() {
            Some("Create") => Method::Create,
            Some("Sign") => Method::Sign,
            Some("SignBatch") => Method::SignBatch,
            Some("SignStream") => Method::SignStream,
            Some("GetKey") => Method::GetKey,
            Some("ListKeys") => Method::ListKeys,
            _ => Method::Other,
        };
        Self { method, request_id: request_id::accept_or_make(given), started: started.0 }
    }

    /// The answer, with the bookkeeping of [`Face::call`].
    pub(super) fn refused(&self, app: &App, error: &Error) -> http::Response<tonic::body::Body> {
        super::ended(app, (self.method, "grpc"), &self.request_id, self.started, Some(error));
        refuse(error, &self.request_id).into_http()
    }
}

impl Face {
    /// Runs one call under its deadline, with the bookkeeping that every call has.
    async fn call<T>(
        &self,
        method: Method,
        (metadata, extensions): (&MetadataMap, &Extensions),
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let started = started(extensions);
        let request_id = request_id_of(metadata);
        let limit = self.limits.request_timeout();
        let deadline = deadline(metadata).map_or(limit, |deadline| deadline.min(limit));
        let result = timeout_at(started + deadline, work).await;
        let result = result.unwrap_or_else(|_| Err(Error::deadline()));
        let error = result.as_ref().err();
        // Items of a batch and requests of a stream are counted where they end.
        if error.is_some() || !matches!(method, Method::SignBatch | Method::SignStream) {
            super::ended(&self.app, (method, "grpc"), &request_id, started, error);
        }
        match result {
            Ok(message) => {
                let mut response = Response::new(message);
                insert(response.metadata_mut(), "x-request-id", &request_id);
                Ok(response)
            }
            Err(error) => Err(refuse(&error, &request_id)),
        }
    }
}

#[tonic::async_trait]
impl SignerService for Face {
    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let work = async {
            let request = CreateRequest::checked(
                message.keyspace,
                message.idempotency_key,
                message.challenge,
                &message.policy,
                &message.tenant_id,
            )?;
            let created = self.app.create(request).await?;
            Ok(v1::CreateResponse {
                key_id: created.key_id.to_string(),
                keyspace: created.keyspace,
                public_key: Bytes::copy_from_slice(&created.public_key),
                birth: Some(v1::Birth {
                    statement: created.birth.statement,
                    signature: created.birth.signature,
                    document_hash: Bytes::copy_from_slice(&created.birth.document_hash),
                    document: created.birth.document,
                }),
            })
        };
        self.call(Method::Create, (&metadata, &extensions), work).await
    }

    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let work = async { Ok(to_response(self.app.sign(checked(&message)?).await?)) };
        self.call(Method::Sign, (&metadata, &extensions), work).await
    }

    async fn sign_batch(
        &self,
        request: Request<v1::SignBatchRequest>,
    ) -> Result<Response<v1::SignBatchResponse>, Status> {
        let (mut metadata, extensions, message) = request.into_parts();
        let (started, request_id) = (started(&extensions), request_id_of(&metadata));
        insert(&mut metadata, "x-request-id", &request_id);
        let limit = self.limits.request_timeout();
        let deadline = started + deadline(&metadata).map_or(limit, |deadline| deadline.min(limit));
        let work = async {
            checked_batch_size(message.requests.len())?;
            let requests = message.requests.iter().map(checked).collect();
            let results = self.app.sign_batch(requests, deadline).await;
            super::batch_ended(&self.app, "grpc", &request_id, started, &results);
            Ok(v1::SignBatchResponse { results: results.into_iter().map(to_result).collect() })
        };
        self.call(Method::SignBatch, (&metadata, &extensions), work).await
    }

    type SignStreamStream = Answers;

    async fn sign_stream(
        &self,
        request: Request<Streaming<v1::SignStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (metadata, mut extensions, requests) = request.into_parts();
        let connection = extensions.remove::<Arc<Connection>>();
        let work = async {
            let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
                Error::new(Code::Overloaded, "as many streams as one worker serves are open")
            })?;
            let opened = Opened {
                request_id: request_id_of(&metadata),
                deadline: deadline(&metadata).map(|deadline| started(&extensions) + deadline),
                connection: connection.ok_or_else(|| Error::internal("no connection"))?,
                _place: place,
            };
            Ok(Answers::new(self.clone(), requests, opened))
        };
        self.call(Method::SignStream, (&metadata, &extensions), work).await
    }

    async fn get_key(
        &self,
        request: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let work = async {
            let key = self.app.key(checked_key_id(&message.key_id)?).await?;
            Ok(v1::GetKeyResponse { key: Some(to_message(&key)) })
        };
        self.call(Method::GetKey, (&metadata, &extensions), work).await
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let work = async {
            let keyspace = checked_keyspace(message.keyspace)?;
            let after = match message.page.as_str() {
                "" => None,
                page => Some(checked_key_id(page).map_err(|_| {
                    Error::invalid("page", "page must be `next_page` of the answer before")
                })?),
            };
            let page = self.app.keys(&keyspace, after).await?;
            Ok(v1::ListKeysResponse {
                keys: page.keys.iter().map(to_message).collect(),
                next_page: page.next.map(|id| id.to_string()).unwrap_or_default(),
            })
        };
        self.call(Method::ListKeys, (&metadata, &extensions), work).await
    }
}

fn started(extensions: &Extensions) -> Instant {
    extensions.get().map_or_else(Instant::now, |Started(started)| *started)
}

fn request_id_of(metadata: &MetadataMap) -> String {
    request_id::accept_or_make(metadata.get("x-request-id").map(MetadataValue::as_encoded_bytes))
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
pub(super) fn to_result(result: Result<Signed, Error>) -> v1::SignResult {
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
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(name, value);
    }
}

/// tonic itself refuses a message that is over the bound, as `OUT_OF_RANGE`. The contract says what HTTP
/// says: the body is not valid.
pub(super) fn in_our_words<B>(mut response: http::Response<B>) -> http::Response<B> {
    let too_long = HeaderValue::from(tonic::Code::OutOfRange as i32);
    let headers = response.headers_mut();
    if headers.get("grpc-status") == Some(&too_long) {
        headers.insert("grpc-status", HeaderValue::from(tonic::Code::InvalidArgument as i32));
        let name = Code::InvalidArgument.row().name;
        headers.insert("sigil-code", HeaderValue::from_static(name));
        headers.insert("sigil-field", HeaderValue::from_static("body"));
    }
    response
}

pub(super) fn refuse(error: &Error, request_id: &str) -> Status {
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
    if let Some(id) = &error.unlock_request_id {
        insert(&mut metadata, "x-unlock-request-id", id);
    }
    Status::with_metadata(row.grpc, error.detail.clone(), metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_code_field_and_hints() {
        let error = Error {
            field: Some("keyId".into()),
            retry_after_ms: Some(70),
            unlock_request_id: Some("u-1".to_owned()),
            ..Error::new(Code::UnlockRequired, "locked")
        };
        let status = refuse(&error, "r-1");
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "locked"));
        for (name, value) in [
            ("sigil-code", "UNLOCK_REQUIRED"),
            ("sigil-field", "keyId"),
            ("retry_after_ms", "70"),
            ("grpc-retry-pushback-ms", "70"),
            ("x-unlock-request-id", "u-1"),
            ("x-request-id", "r-1"),
        ] {
            assert_eq!(status.metadata().get(name).unwrap(), value);
        }
    }

    #[test]
    fn deadlines_follow_the_grpc_specification() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("20m", Some(Duration::from_millis(20))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("5x", None),
            ("-5m", None),
        ] {
            let mut metadata = MetadataMap::new();
            insert(&mut metadata, "grpc-timeout", text);
            assert_eq!(deadline(&metadata), expected, "{text}");
        }
    }
}
