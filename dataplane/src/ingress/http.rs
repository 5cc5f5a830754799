//! The HTTP face: paths, bodies, problem details.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::idle::Connection;
use super::{Ingress, caller, contract, request_id};
use crate::app::{Asked, Asker, checked_key_id, checked_keyspace, refuse_tenant};
use crate::error::{Code, Error};
use crate::metrics::{Method, Phase};

const OPENAPI: &str = include_str!("../../../docs/api/openapi.yaml");

/// The time that the caller gives a request, in whole ms.
static TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// A path that exists.
enum Route<'a> {
    Create,
    Sign,
    SignBatch,
    Keys,
    Key(&'a str),
    Attestation(&'a str),
    OpenApi,
}

/// Answers one request. Never fails: every failure is an answer. The request is borrowed on the way down:
/// each step would carry it twice otherwise.
pub(super) async fn handle(
    ingress: &Ingress,
    request: &mut Request<Incoming>,
    connection: &Connection,
    started: Instant,
) -> Response<Full<Bytes>> {
    let request_id = request_id::of(request.headers());
    let limit = ingress.live.load().limits.request_timeout();
    let given = timeout(request.headers());
    let deadline =
        started + given.as_ref().map_or(limit, |given| given.unwrap_or(limit).min(limit));
    let uri = request.uri().clone();
    let route = route(uri.path());
    let method = route.as_ref().map_or(Method::Other, Route::method);
    let work = pin!(async {
        caller::check(request, &connection.peer)?;
        refuse_websocket(request.headers())?;
        given?;
        let route = route.ok_or_else(|| no_such_path(uri.path()))?;
        run((ingress, connection), route, request, (&request_id, started, deadline)).await
    });
    let result = timeout_at(deadline, work).await;
    let result = result.unwrap_or_else(|_| Err(Error::deadline()));
    let error = result.as_ref().err();
    // Items of a batch are counted where they end.
    if error.is_some() || method != Method::SignBatch {
        super::ended(&ingress.app, (method, "http"), &request_id, started, error);
    }
    let mut response = match result {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => refuse(&error, &request_id),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(&request_id::HEADER, value);
    }
    response
}

async fn run(
    (ingress, connection): (&Ingress, &Connection),
    route: Route<'_>,
    request: &mut Request<Incoming>,
    (request_id, started, deadline): (&Arc<str>, Instant, Instant),
) -> Result<Bytes, Error> {
    if *request.method() != route.verb() {
        let detail = format!("this path answers {} only", route.verb());
        return Err(Error::invalid("method", detail).with_http_status(405));
    }
    let asker = match route {
        // Whoever may connect may read what is published anyway.
        Route::OpenApi => return openapi(),
        _ => Asker {
            caller: ingress.caller(request.headers(), connection)?,
            request_id: Arc::clone(request_id),
        },
    };
    let asked = Asked { asker: &asker, deadline };
    match route {
        Route::Sign => sign(ingress, request, (asked, started)).await,
        // The others have far more state, which each `sign` would have to carry and copy.
        _ => Box::pin(run_any(ingress, route, request, (asked, started))).await,
    }
}

async fn sign(
    ingress: &Ingress,
    request: &mut Request<Incoming>,
    (asked, started): (Asked<'_>, Instant),
) -> Result<Bytes, Error> {
    let body = read_body(ingress, request, (Method::Sign, started)).await?;
    let signed = ingress.app.sign_anywhere(asked, contract::read_sign(&body)?).await?;
    Ok(contract::signed(&signed))
}

async fn run_any(
    ingress: &Ingress,
    route: Route<'_>,
    request: &mut Request<Incoming>,
    (asked, started): (Asked<'_>, Instant),
) -> Result<Bytes, Error> {
    let asker = asked.asker;
    let app = &ingress.app;
    let query = request.uri().query().unwrap_or_default().to_owned();
    match route {
        Route::Create => {
            let body = read_body(ingress, request, (Method::Create, started)).await?;
            let created = app.create_anywhere(asked, contract::read_create(&body)?).await?;
            Ok(to_bytes(&contract::created(&created)))
        }
        Route::Sign => sign(ingress, request, (asked, started)).await,
        Route::SignBatch => {
            let body = read_body(ingress, request, (Method::SignBatch, started)).await?;
            let requests = contract::read_batch(&body)?;
            let results = app.sign_batch(asked, requests).await?;
            super::batch_ended(app, "http", &asker.request_id, started, &results);
            Ok(contract::signed_batch(&results))
        }
        Route::Keys => {
            let [keyspace, page, tenant] = parameters(&query, ["keyspace", "page", "tenantId"])?;
            refuse_tenant(tenant.unwrap_or_default())?;
            contract::refuse_empty_keyspace(keyspace)?;
            let keyspace = checked_keyspace(keyspace.unwrap_or_default().to_owned())?;
            let page = page.map(checked_key_id).transpose().map_err(|_| {
                Error::invalid("page", "page must be `nextPage` of the answer before")
            })?;
            Ok(to_bytes(&contract::page(&app.keys(asker, &keyspace, page).await?)))
        }
        Route::Key(id) => {
            let [tenant] = parameters(&query, ["tenantId"])?;
            refuse_tenant(tenant.unwrap_or_default())?;
            Ok(to_bytes(&contract::key(&app.key(asker, checked_key_id(id)?).await?)))
        }
        Route::Attestation(id) => {
            let [nonce, tenant] = parameters(&query, ["nonce", "tenantId"])?;
            refuse_tenant(tenant.unwrap_or_default())?;
            let nonce = nonce.map(contract::read_nonce).transpose()?.unwrap_or_default();
            let proof = app.attestation(asker, checked_key_id(id)?, nonce).await?;
            Ok(to_bytes(&contract::statement(&proof)))
        }
        Route::OpenApi => openapi(),
    }
}

/// Row G7. Other upgrades are not taken, and their requests are answered, as RFC 9110, section 7.8 wants.
fn refuse_websocket(headers: &HeaderMap) -> Result<(), Error> {
    let asked = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let mut protocols = asked.flat_map(|value| value.split(','));
    if protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket")) {
        return Err(Error::invalid("upgrade", "WebSocket is not supported; use HTTP or gRPC"));
    }
    Ok(())
}

/// The caller's own deadline, if it has one.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(&TIMEOUT_HEADER) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|it| it.is_ascii_digit()));
    match digits.and_then(|text| text.parse::<u32>().ok()) {
        Some(ms) if ms > 0 => Ok(Some(Duration::from_millis(ms.into()))),
        _ => {
            let detail = format!("{TIMEOUT_HEADER} must be a whole number of ms above 0");
            Err(Error::invalid(TIMEOUT_HEADER.as_str(), detail))
        }
    }
}

fn route(path: &str) -> Option<Route<'_>> {
    match path {
        "/create" => Some(Route::Create),
        "/sign" => Some(Route::Sign),
        "/sign/batch" => Some(Route::SignBatch),
        "/keys" => Some(Route::Keys),
        "/openapi.json" => Some(Route::OpenApi),
        _ => {
            let rest = path.strip_prefix("/keys/")?;
            match rest.strip_suffix("/attestation") {
                Some(id) if !id.contains('/') => Some(Route::Attestation(id)),
                None if !rest.contains('/') => Some(Route::Key(rest)),
                _ => None,
            }
        }
    }
}

// === impl Route ===

impl Route<'_> {
    fn verb(&self) -> Verb {
        match self {
            Self::Create | Self::Sign | Self::SignBatch => Verb::POST,
            Self::Keys | Self::Key(_) | Self::Attestation(_) | Self::OpenApi => Verb::GET,
        }
    }

    fn method(&self) -> Method {
        match self {
            Self::Create => Method::Create,
            Self::Sign => Method::Sign,
            Self::SignBatch => Method::SignBatch,
            Self::Keys => Method::ListKeys,
            Self::Key(_) => Method::GetKey,
            Self::Attestation(_) => Method::Attestation,
            Self::OpenApi => Method::Other,
        }
    }
}

async fn read_body(
    ingress: &Ingress,
    request: &mut Request<Incoming>,
    (method, started): (Method, Instant),
) -> Result<Bytes, Error> {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = |kind: &[u8]| {
        let end = kind.iter().position(|byte| *byte == b';').unwrap_or(kind.len());
        kind[..end].trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    // curl's default for -d is taken too: it says nothing about what was meant.
    let default_of_curl = kind == Some(b"application/x-www-form-urlencoded");
    if !kind.is_none_or(is_json) && !default_of_curl {
        let detail = "the body must be application/json";
        return Err(Error::invalid("content-type", detail).with_http_status(415));
    }
    let max = ingress.live.load().limits.body_bytes_max;
    let too_long = || {
        Error::invalid("body", format!("the body is longer than {max} bytes")).with_http_status(413)
    };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > max as u64) {
        return Err(too_long());
    }
    let collected = Limited::new(request.body_mut(), max).collect().await;
    let body = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            too_long()
        } else {
            Error::invalid("body", "the body ended early").because(error.to_string())
        }
    })?;
    ingress.app.metrics.phase(method, Phase::Ingress, started.elapsed());
    Ok(body.to_bytes())
}

/// The query's parameters by name. None of ours needs percent-encoding.
fn parameters<'q, const N: usize>(
    query: &'q str,
    known: [&'static str; N],
) -> Result<[Option<&'q str>; N], Error> {
    let mut values = [None; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = known.iter().position(|known| *known == name);
        match slot.and_then(|at| Some((known.get(at)?, values.get_mut(at)?))) {
            Some((_, slot)) if slot.is_none() => *slot = Some(value),
            Some((name, _)) => {
                return Err(Error::invalid(*name, format!("the parameter {name} is given twice")));
            }
            None => {
                let known = if N == 0 { "none".to_owned() } else { known.join(", ") };
                let detail = format!("unknown query parameter; known: {known}");
                return Err(Error::invalid("query", detail));
            }
        }
    }
    Ok(values)
}

fn no_such_path(path: &str) -> Error {
    let path: String = path.chars().take(64).collect();
    Error::invalid("path", format!("there is nothing at {path}; see /openapi.json"))
        .with_http_status(404)
}

fn openapi() -> Result<Bytes, Error> {
    static JSON: OnceLock<Option<Bytes>> = OnceLock::new();
    let json = JSON.get_or_init(|| {
        let document: serde_json::Value = serde_yaml_ng::from_str(OPENAPI).ok()?;
        serde_json::to_vec(&document).ok().map(Bytes::from)
    });
    json.clone().ok_or_else(|| Error::internal("docs/api/openapi.yaml does not parse"))
}

fn to_bytes(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}

/// An answer that nobody may keep.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Problem details, with their hints as headers too.
pub(crate) fn refuse(error: &Error, request_id: &str) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = to_bytes(&contract::problem(error, request_id));
    let mut response = answer(status, "application/problem+json", body);
    let headers = response.headers_mut();
    if let Some(hint) = error.retry_after_ms {
        // Whole seconds by its RFC, rounded up.
        headers.insert(RETRY_AFTER, HeaderValue::from(hint.div_ceil(1_000).max(1)));
        headers.insert("retry-after-ms", HeaderValue::from(hint));
    }
    if let Some(Ok(id)) = error.unlock_request_id.as_deref().map(HeaderValue::from_str) {
        headers.insert("x-unlock-request-id", id);
    }
    if error.circuit_open {
        headers.insert("x-circuit-breaker", HeaderValue::from_static("open"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = if error.detail.contains("POST") { "POST" } else { "GET" };
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if error.code == Code::Unauthenticated {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_the_contract_says() {
        for (path, found) in [
            ("/create", true),
            ("/sign", true),
            ("/sign/batch", true),
            ("/keys", true),
            ("/keys/k1", true),
            ("/keys/k1/attestation", true),
            ("/openapi.json", true),
            ("/", false),
            ("/keys/k1/other", false),
            ("/keys/a/b/attestation", false),
            ("/sign/", false),
            ("/create/x", false),
        ] {
            assert_eq!(route(path).is_some(), found, "{path}");
        }
        assert!(matches!(route("/keys/k1/attestation"), Some(Route::Attestation("k1"))));
    }

    #[test]
    fn parameters_are_known_and_single() {
        let known = ["keyspace", "page"];
        assert_eq!(parameters("keyspace=a&page=b", known).unwrap(), [Some("a"), Some("b")]);
        assert_eq!(parameters("", known).unwrap(), [None, None]);
        for (query, field) in [("other=1", "query"), ("page=1&page=2", "page")] {
            assert_eq!(parameters(query, known).unwrap_err().field.as_deref(), Some(field));
        }
        assert!(parameters("x=1", []).is_err());
    }

    #[test]
    fn a_callers_timeout_is_a_whole_number_of_ms() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&TIMEOUT_HEADER, HeaderValue::from_str(text).unwrap());
            timeout(&headers)
        };
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        assert_eq!(with("250"), Ok(Some(Duration::from_millis(250))));
        for bad in ["", "0", "-1", "+1", "1.5", "1s", "99999999999"] {
            assert_eq!(
                with(bad).unwrap_err().field.as_deref(),
                Some(TIMEOUT_HEADER.as_str()),
                "{bad}"
            );
        }
    }

    #[test]
    fn refusals_carry_their_hints() {
        let error = Error {
            retry_after_ms: Some(150),
            unlock_request_id: Some("u-7".to_owned()),
            circuit_open: true,
            ..Error::new(Code::UnlockRequired, "locked")
        };
        let response = refuse(&error, "r");
        assert_eq!(response.status(), 503);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("retry-after"), "1");
        assert_eq!(header("retry-after-ms"), "150");
        assert_eq!(header("x-unlock-request-id"), "u-7");
        assert_eq!(header("x-circuit-breaker"), "open");
        assert_eq!(header("content-type"), "application/problem+json");
        let response = refuse(&Error::invalid("method", "POST only").with_http_status(405), "r");
        assert_eq!(response.headers()["allow"], "POST");
    }

    #[test]
    fn the_openapi_document_is_served_as_json_and_lists_every_path() {
        let json: serde_json::Value = serde_json::from_slice(&openapi().unwrap()).unwrap();
        let yaml: serde_json::Value = serde_yaml_ng::from_str(OPENAPI).unwrap();
        assert_eq!(json, yaml);
        let paths = json["paths"].as_object().unwrap();
        for path in paths.keys() {
            let path = path.replace("{id}", "k1aaaaaaaaaaaaaaaaaaaaaaaaaa");
            assert!(route(&path).is_some(), "{path}");
        }
        assert_eq!(paths.len(), 7);
        let codes = json["components"]["schemas"]["Code"]["enum"].clone();
        let table: Vec<_> = crate::error::TABLE.iter().map(|row| row.name).collect();
        assert_eq!(codes, serde_json::json!(table));
    }
}
