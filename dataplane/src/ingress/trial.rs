//! The contract's parsers for `hack/fuzz`: bytes in, and what each face makes of them. The server has no
//! use for it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tonic::codec::{Codec, Streaming};
use tonic_prost::ProstCodec;

use super::{contract, grpc};
use crate::app::{CreateRequest, SignRequest, checked_batch_size};
use crate::error::Error;
use crate::v1;

/// A key that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// By its name, also where none was given.
    pub keyspace: String,
    /// Not empty.
    pub idempotency_key: Option<String>,
    /// At most 64 bytes.
    pub challenge: Vec<u8>,
}

/// A signature that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// In its one spelling.
    pub key_id: String,
    /// What is signed.
    pub digest: [u8; 32],
    /// Also in DER.
    pub der: bool,
}

/// What the caller is told instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the error table.
    pub code: &'static str,
    /// What is wrong with the request.
    pub field: Option<String>,
    /// One sentence.
    pub detail: String,
    /// The whole answer over HTTP.
    pub problem: String,
}

/// Body of `POST /create`.
pub fn http_create(body: &[u8]) -> Result<Create, Refused> {
    contract::read_create(body).map(Into::into).map_err(Into::into)
}

/// Body of `POST /sign`.
pub fn http_sign(body: &[u8]) -> Result<Sign, Refused> {
    contract::read_sign(body).map(Into::into).map_err(Into::into)
}

/// Body of `POST /sign/batch`.
pub fn http_batch(body: &[u8]) -> Result<Vec<Result<Sign, Refused>>, Refused> {
    Ok(each(contract::read_batch(body)?))
}

/// `Create`; nothing if the bytes are no such message.
pub fn grpc_create(message: &[u8]) -> Option<Result<Create, Refused>> {
    let message = v1::CreateRequest::decode(message).ok()?;
    Some(grpc::checked_create(message).map(Into::into).map_err(Into::into))
}

/// `Sign`; nothing if the bytes are no such message.
pub fn grpc_sign(message: &[u8]) -> Option<Result<Sign, Refused>> {
    let message = v1::SignRequest::decode(message).ok()?;
    Some(grpc::checked(&message).map(Into::into).map_err(Into::into))
}

/// `SignBatch`; nothing if the bytes are no such message.
pub fn grpc_batch(message: &[u8]) -> Option<Result<Vec<Result<Sign, Refused>>, Refused>> {
    let message = v1::SignBatchRequest::decode(message).ok()?;
    if let Err(error) = checked_batch_size(message.requests.len()) {
        return Some(Err(error.into()));
    }
    Some(Ok(each(message.requests.iter().map(grpc::checked).collect())))
}

/// The tags of a `SignStream`'s requests whose frames come in pieces of `piece` bytes, and the gRPC code
/// with which reading ended: 0 at the end of the body. No message may be longer than `max`.
pub fn grpc_frames(body: &[u8], piece: usize, max: usize) -> (Vec<u64>, i32) {
    let pieces: Vec<_> = body
        .chunks(piece.max(1))
        .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    let decoder = ProstCodec::<(), v1::SignStreamRequest>::default().decoder();
    let mut requests = Streaming::new_request(decoder, body, None, Some(max));
    let mut tags = Vec::new();
    loop {
        match requests.message().now_or_never() {
            Some(Ok(Some(request))) => tags.push(request.tag),
            Some(Ok(None)) => return (tags, 0),
            Some(Err(status)) => return (tags, status.code().into()),
            None => return (tags, -1),
        }
    }
}

fn each(requests: Vec<Result<SignRequest, Error>>) -> Vec<Result<Sign, Refused>> {
    requests.into_iter().map(|it| it.map(Into::into).map_err(Into::into)).collect()
}

impl From<CreateRequest> for Create {
    fn from(request: CreateRequest) -> Self {
        let CreateRequest { keyspace, idempotency_key, challenge, .. } = request;
        Self { keyspace, idempotency_key, challenge: challenge.into() }
    }
}

impl From<SignRequest> for Sign {
    fn from(request: SignRequest) -> Self {
        let SignRequest { key_id, digest, der, .. } = request;
        Self { key_id: key_id.to_string(), digest, der }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self {
            code: error.code.row().name,
            field: error.field.as_ref().map(ToString::to_string),
            detail: error.detail.to_string(),
            problem: contract::problem(&error, "trial").to_string(),
        }
    }
}
