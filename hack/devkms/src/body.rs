//! The body of an answer: whole, or half of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;

use crate::fault::FaultMode;

/// Bytes that are there already, and what comes after them.
pub(crate) struct Body {
    left: Option<Bytes>,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Complete,
    Broken,
    Never,
}

impl Body {
    /// All of `bytes`, or half of them if the fault says so.
    pub(crate) fn new(mut bytes: Vec<u8>, fault: FaultMode) -> Self {
        let end = match fault {
            FaultMode::CutAnswer => End::Broken,
            FaultMode::StallAnswer => End::Never,
            _ => End::Complete,
        };
        if !matches!(end, End::Complete) {
            bytes.truncate(bytes.len() / 2);
        }
        Self { left: Some(bytes.into()), end }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match (self.left.take(), self.end) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, End::Complete) => Poll::Ready(None),
            (None, End::Broken) => Poll::Ready(Some(Err(io::Error::other("cut off on purpose")))),
            // Never woken: hyper drops the body when the client goes.
            (None, End::Never) => Poll::Pending,
        }
    }
}
