//! A request to another member and its answer, in the words of both sides.

use bytes::Bytes;
use sigil_enclave_client::KeyId;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::Router;
use super::peers::{HopError, Patience, Peer};
use crate::app::{Asked, Birth, CreateRequest, Created, SignRequest, Signed};
use crate::error::{Code, Error};
use crate::hop_v1::{CreateHop, SignHop};
use crate::v1;

// === impl Router ===

impl Router {
    /// Has the enclave of `peer` sign.
    pub(crate) async fn sign_at(
        &self,
        peer: &Peer,
        request: &SignRequest,
        asked: Asked<'_>,
    ) -> Result<Signed, Error> {
        self.sent();
        let hop = SignHop {
            tag: 0,
            epoch: self.epoch(),
            key_id: Bytes::copy_from_slice(&request.key_id.0),
            digest: Bytes::copy_from_slice(&request.digest),
            der: request.der,
            left_ms: left_ms(asked),
            request_id: asked.asker.request_id.to_string(),
            subject: asked.asker.caller.subject().to_owned(),
        };
        let answer = peer.sign(hop, self.patience(asked)).await;
        let result = answer
            .map_err(|why| self.lost(peer, why))
            .and_then(|result| read_result(request.key_id, result));
        judge(peer, &result);
        result
    }

    /// Has the enclave of `peer` make a key; `None` if nothing was sent.
    pub(crate) async fn create_at(
        &self,
        peer: &Peer,
        key_id: KeyId,
        request: &CreateRequest,
        asked: Asked<'_>,
    ) -> Option<Result<Created, Error>> {
        let request = v1::CreateRequest {
            keyspace: request.keyspace.clone(),
            idempotency_key: request.idempotency_key.clone().unwrap_or_default(),
            challenge: request.challenge.clone(),
            policy: Bytes::new(),
            tenant_id: String::new(),
        };
        let key = Bytes::copy_from_slice(&key_id.0);
        let subject = asked.asker.caller.subject().to_owned();
        let hop = CreateHop { epoch: self.epoch(), key_id: key, request: Some(request), subject };
        let answer = peer.create(hop, (&asked.asker.request_id, self.patience(asked))).await;
        if answer.as_ref().is_err_and(|why| *why == HopError::NotConnected) {
            return None;
        }
        self.sent();
        let result = match answer {
            Err(why) => Err(self.lost(peer, why)),
            Ok(Err(status)) => Err(read_status(&status)),
            Ok(Ok(response)) => read_created(key_id, response),
        };
        judge(peer, &result);
        Some(result)
    }

    fn patience(&self, asked: Asked<'_>) -> Patience {
        Patience { deadline: asked.deadline, time_max: self.members.hop_time_max }
    }

    fn sent(&self) {
        self.budget.earn();
        self.members.table.metrics.hops.inc();
    }

    /// What a hop without an answer means to a caller.
    fn lost(&self, peer: &Peer, why: HopError) -> Error {
        self.members.table.metrics.hops_failed.inc();
        let because = format!("hop to slot {}: {why:?}", peer.slot());
        match why {
            HopError::NotConnected | HopError::Lost => Error::enclave_unavailable(),
            HopError::Late => {
                Error::new(Code::RetryLater, "the member that holds the key did not answer in time")
            }
            HopError::Full => Error::new(
                Code::Overloaded,
                "as many requests as may wait for the member that holds the key are waiting",
            ),
        }
        .because(because)
    }
}

/// An enclave that does not answer its own member does not answer us.
fn judge<T>(peer: &Peer, result: &Result<T, Error>) {
    match result {
        // What never came back was judged when it did not.
        Err(error) if error.internal.as_deref().is_some_and(|it| it.starts_with("hop to slot")) => {
        }
        Err(error) => peer.judge(error.code != Code::EnclaveUnavailable),
        Ok(_) => peer.judge(true),
    }
}

fn left_ms(asked: Asked<'_>) -> u32 {
    let left = asked.deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}

fn malformed() -> Error {
    Error::internal("the answer of another member is malformed")
}

fn read_result(key_id: KeyId, result: v1::SignResult) -> Result<Signed, Error> {
    use v1::sign_result::Result as Either;
    match result.result.ok_or_else(malformed)? {
        Either::Signed(signed) => Ok(Signed {
            key_id,
            public_key: signed.public_key.as_ref().try_into().map_err(|_| malformed())?,
            signature: signed.signature.as_ref().try_into().map_err(|_| malformed())?,
            recovery_id: u8::try_from(signed.recovery_id).map_err(|_| malformed())?,
            der: (!signed.der.is_empty()).then(|| signed.der.to_vec()),
        }),
        Either::Error(error) => {
            let some = |text: String| (!text.is_empty()).then_some(text);
            Err(Error {
                field: some(error.field).map(Into::into),
                retry_after_ms: (error.retry_after_ms > 0).then_some(error.retry_after_ms),
                unlock_request_id: some(error.unlock_request_id),
                ..Error::new(Code::named(&error.code).ok_or_else(malformed)?, error.detail)
            })
        }
    }
}

fn read_status(status: &tonic::Status) -> Error {
    let text = |name: &str| text(status.metadata(), name);
    let Some(code) = text("sigil-code").and_then(|name| Code::named(&name)) else {
        return malformed();
    };
    Error {
        field: text("sigil-field").map(Into::into),
        retry_after_ms: text("retry_after_ms").and_then(|ms| ms.parse().ok()),
        unlock_request_id: text("x-unlock-request-id"),
        ..Error::new(code, status.message().to_owned())
    }
}

fn text(metadata: &MetadataMap, name: &str) -> Option<String> {
    metadata.get(name)?.to_str().ok().map(ToOwned::to_owned)
}

fn read_created(key_id: KeyId, response: v1::CreateResponse) -> Result<Created, Error> {
    if response.key_id != key_id.to_string() {
        return Err(malformed());
    }
    let birth = response.birth.ok_or_else(malformed)?;
    Ok(Created {
        key_id,
        keyspace: response.keyspace,
        public_key: response.public_key.as_ref().try_into().map_err(|_| malformed())?,
        birth: Birth {
            statement: birth.statement,
            signature: birth.signature,
            document_hash: birth.document_hash.as_ref().try_into().map_err(|_| malformed())?,
            document: birth.document,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::grpc::{refuse, to_result};

    const KEY: KeyId = KeyId([7; 16]);

    #[test]
    fn an_answer_says_the_same_after_a_hop() {
        let signed = Signed {
            key_id: KEY,
            public_key: [2; 33],
            signature: [3; 64],
            recovery_id: 1,
            der: Some(vec![4; 70]),
        };
        assert_eq!(read_result(KEY, to_result(Ok(signed.clone()))), Ok(signed));
        let errors = [
            Error::invalid("digest", "digest is 31 bytes long, not 32"),
            Error::enclave_unavailable(),
            Error {
                retry_after_ms: Some(77),
                unlock_request_id: Some("u-1".to_owned()),
                ..Error::new(Code::UnlockRequired, "locked")
            },
            Error::new(Code::InvalidKey, "broken"),
        ];
        for error in errors {
            assert_eq!(read_result(KEY, to_result(Err(error.clone()))), Err(error.clone()));
            assert_eq!(read_status(&refuse(&error, "r")), error);
        }
    }

    #[test]
    fn a_malformed_answer_is_no_signature() {
        let short =
            v1::SignResponse { public_key: Bytes::from_static(&[2; 32]), ..Default::default() };
        let either = v1::sign_result::Result::Signed(short);
        for result in [v1::SignResult { result: None }, v1::SignResult { result: Some(either) }] {
            assert_eq!(read_result(KEY, result).unwrap_err().code, Code::Internal);
        }
        let other = v1::CreateResponse { key_id: KeyId([8; 16]).to_string(), ..Default::default() };
        assert_eq!(read_created(KEY, other).unwrap_err().code, Code::Internal);
    }
}
