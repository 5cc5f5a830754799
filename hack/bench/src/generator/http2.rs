//! `POST /sign` on HTTP/2 without TLS, known beforehand.

use std::rc::Rc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::callers::Caller;
use super::http1::json_is_signature;
use super::{Digests, Plan};

/// Streams that a connection opens before the server has said how many it takes.
pub(super) const STREAMS: usize = 1_024;

pub(super) struct Stream {
    sender: SendRequest<Full<Bytes>>,
    digests: Digests,
}

/// Callers spread over the plan's connections.
pub(super) async fn connect_all(plan: &Rc<Plan>) -> Result<Vec<Stream>> {
    let senders = senders(plan).await?;
    let callers = senders.iter().cycle().take(plan.callers).enumerate();
    Ok(callers
        .map(|(caller, sender)| Stream {
            sender: sender.clone(),
            digests: Digests::new(plan, caller),
        })
        .collect())
}

/// The plan's connections.
pub(super) async fn senders<B>(plan: &Plan) -> Result<Vec<SendRequest<B>>>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut senders = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_max_send_streams(STREAMS);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    Ok(senders)
}

impl Caller for Stream {
    async fn call(&mut self, check: bool) -> Result<u32, String> {
        let (digest, key) = self.digests.next();
        let digits = const_hex::encode(digest);
        let body = format!(r#"{{"keyId":"{}","digest":"{digits}"}}"#, key.id);
        let request = Request::post("http://localhost/sign")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response =
            self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(status.as_u16().to_string());
        }
        let valid = || {
            let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            json_is_signature(&body, &digest, key)
        };
        if check && !valid() {
            return Err("an invalid signature".to_owned());
        }
        Ok(1)
    }
}
