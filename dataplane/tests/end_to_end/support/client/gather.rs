//! Requests that reach the server together, however slowly the machine runs their sender.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, duplex};
use tokio::net::UnixStream;

use super::{Grpc, grpc_on};

/// More than the requests of any test.
const BYTES_MAX: usize = 1 << 20;
/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113, section 4.1: length (3), type (1), flags (1), stream (4).
const FRAME_HEAD_BYTES: usize = 9;

/// A client whose first `requests` are held back until the last of them is complete, and then sent in
/// one piece. The server sees nothing before, the connection included.
pub(crate) async fn gathered(socket: PathBuf, requests: usize) -> Grpc {
    let (near, mut far) = duplex(BYTES_MAX);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while complete_requests(&held) < requests {
            assert_ne!(far.read_buf(&mut held).await.unwrap(), 0, "the client is gone");
        }
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&held).await.unwrap();
        let _ = copy_bidirectional(&mut far, &mut stream).await;
    });
    grpc_on(near).await
}

/// Frames of `bytes` that end a request: HEADERS or DATA with END_STREAM.
fn complete_requests(bytes: &[u8]) -> usize {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or_default();
    let mut count = 0;
    while let Some((&[a, b, c, kind, flags, ..], payload)) =
        rest.split_first_chunk::<FRAME_HEAD_BYTES>()
    {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(next) = payload.get(length..) else { break };
        count += usize::from(kind <= 1 && flags & 1 == 1);
        rest = next;
    }
    count
}
