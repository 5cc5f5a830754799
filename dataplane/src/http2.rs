//! One HTTP/2 connection as a transport of generated clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::client::conn::http2::SendRequest;

/// The sending half of a connection; somebody else drives it.
#[derive(Clone, Debug)]
pub(crate) struct Http2(pub(crate) SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Http2 {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
