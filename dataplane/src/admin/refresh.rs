//! `POST /debug/refresh` `{"keyspace": ..., "keyId": ...}`: the operator call of row S4d. The answer is
//! JSON, a refusal the problem details of the public contract.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::app::{App, RefreshRequest};
use crate::error::Error;
use crate::ingress::http::{answer, refuse};
use crate::ingress::peer::Peer;
use crate::ingress::{caller, json, request_id};

/// Two short fields.
const BODY_BYTES_MAX: usize = 1_024;
const FIELDS: &[&str] = &["keyspace", "keyId"];

/// Answers one request; every failure is an answer.
pub(super) async fn handle(
    app: &App,
    request: Request<Incoming>,
    peer: &Peer,
    time_max: Duration,
) -> Response<Full<Bytes>> {
    let id = request_id::of(request.headers());
    let result = timeout(time_max, refresh(app, request, peer)).await;
    match result.unwrap_or_else(|_| Err(Error::deadline())) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => {
            tracing::info!(
                request_id = &*id,
                code = error.code.row().name,
                field = error.field.as_deref(),
                detail = &*error.detail,
                internal = error.internal,
                "refresh refused"
            );
            refuse(&error, &id)
        }
    }
}

async fn refresh(app: &App, request: Request<Incoming>, peer: &Peer) -> Result<Bytes, Error> {
    caller::check(&request, peer)?;
    let body =
        Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| {
            let detail = format!("the body did not come, or is longer than {BODY_BYTES_MAX} bytes");
            Error::invalid("body", detail).because(error.to_string())
        })?;
    let request = read(&body.to_bytes())?;
    let done = app.refresh(&request).await?;
    let answer = json!({
        "keyId": request.key_id.to_string(),
        "keyspace": request.keyspace,
        "refreshed": true,
        "wasCached": done.was_cached,
    });
    Ok(answer.to_string().into())
}

fn read(body: &[u8]) -> Result<RefreshRequest, Error> {
    let mut fields = json::Fields::read(body, FIELDS)?;
    let keyspace = fields.required("keyspace")?.into_owned();
    RefreshRequest::checked(keyspace, &fields.required("keyId")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_body_names_its_field() {
        for (body, field) in [
            ("", "body"),
            ("{}", "keyspace"),
            (r#"{"keyspace":"default"}"#, "keyId"),
            (r#"{"keyspace":1,"keyId":"k1"}"#, "keyspace"),
            (r#"{"keyspace":"default","keyId":"k1"}"#, "keyId"),
            (r#"{"keyspace":"default","force":true}"#, "force"),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().field.as_deref(), Some(field), "{body}");
        }
    }
}
