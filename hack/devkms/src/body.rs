//! The body of an answer: whole, or cut off in the middle.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;

/// Bytes that are there already.
pub(crate) struct Body {
    left: Option<Bytes>,
    cut: bool,
}

impl Body {
    /// With `cut`, half of the bytes and then a broken connection.
    pub(crate) fn new(mut bytes: Vec<u8>, cut: bool) -> Self {
        if cut {
            bytes.truncate(bytes.len() / 2);
        }
        Self { left: Some(bytes.into()), cut }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = match self.left.take() {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.cut => Some(Err(io::Error::other("cut off on purpose"))),
            None => None,
        };
        Poll::Ready(frame)
    }
}
