//! One HTTP call to a running dataplane, with the retries that its hints ask for.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

/// Bytes of an answer; the largest holds an attestation document.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const CALL_TIME_MAX: Duration = Duration::from_secs(30);

/// Where the dataplane is and how long to wait for it.
#[derive(clap::Args)]
pub(super) struct Target {
    /// `http://HOST:PORT` or `unix:/path` of a running dataplane.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Seconds to go on while the answer asks to retry, 0 for one attempt.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

impl Target {
    /// Another listener than the one for applications.
    pub(super) fn new(url: &str, wait: u64) -> Self {
        Self { url: url.to_owned(), wait }
    }
}

/// Sends one POST, prints the answer; the exit status says whether it was a success.
pub(super) fn post(target: &Target, path: &str, body: &Value) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(post_until_settled(target, path, body)) {
        Ok((status, answer)) if status.is_success() => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Ok((_, answer)) => fail(&answer),
        Err(error) => fail(&format!("{}: {error}", target.url)),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

async fn post_until_settled(
    target: &Target,
    path: &str,
    body: &Value,
) -> Result<(StatusCode, String), String> {
    let started = Instant::now();
    loop {
        let attempt = timeout(CALL_TIME_MAX, post_once(&target.url, path, body)).await;
        let (status, answer) =
            attempt.map_err(|_| format!("no answer within {CALL_TIME_MAX:?}"))??;
        match hint(status, &answer) {
            Some(wait) if started.elapsed() + wait < Duration::from_secs(target.wait) => {
                sleep(wait).await;
            }
            _ => return Ok((status, answer)),
        }
    }
}

/// How long the answer asks to wait; nothing if a retry would not help.
fn hint(status: StatusCode, answer: &str) -> Option<Duration> {
    if status.is_success() {
        return None;
    }
    let problem: Value = serde_json::from_str(answer).ok()?;
    problem.get("retryAfterMs")?.as_u64().map(Duration::from_millis)
}

async fn post_once(url: &str, path: &str, body: &Value) -> Result<(StatusCode, String), String> {
    let text = |error: std::io::Error| error.to_string();
    if let Some(socket) = url.strip_prefix("unix:") {
        let stream = tokio::net::UnixStream::connect(socket).await.map_err(text)?;
        return exchange(stream, "localhost", path, body).await;
    }
    let authority = url
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .ok_or("expected http://HOST:PORT or unix:/path")?;
    let stream = tokio::net::TcpStream::connect(authority).await.map_err(text)?;
    exchange(stream, authority, path, body).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
    body: &Value,
) -> Result<(StatusCode, String), String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&answer).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hint_means_retry() {
        let problem = r#"{"code":"UNLOCK_REQUIRED","retryAfterMs":70}"#;
        let locked = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(hint(locked, problem), Some(Duration::from_millis(70)));
        assert_eq!(hint(StatusCode::OK, problem), None);
        assert_eq!(hint(StatusCode::BAD_REQUEST, r#"{"code":"INVALID_ARGUMENT"}"#), None);
        assert_eq!(hint(locked, "no JSON"), None);
    }
}
