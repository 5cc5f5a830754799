//! HTTP/2 as bytes (RFC 9113, RFC 7541): what a peer can send and no library would.

use std::io;

use bytes::{BufMut, Bytes};
use prost::Message;
use sigil_enclave_client::connect::connect;
use sigil_enclave_protocol::handshake::{ClaimToken, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The flag of `HEADERS` that says that no more follow, and of `SETTINGS` that says that it answers.
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The largest window of a stream or a connection; what it is before anybody changes it; the
/// largest frame that everybody takes.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
const WINDOW_BYTES: u32 = 65_535;
const FRAME_BYTES_MAX: usize = 16_384;

/// A frame.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    payload: Vec<u8>,
}

/// A peer that passed the handshake and wants to be sent without bounds.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    /// What the other side takes on the connection.
    window_bytes: usize,
}

impl Peer {
    /// Proves the token and greets. Answers no ping.
    pub(crate) async fn new(mut socket: UnixStream, token: &ClaimToken) -> Self {
        connect(&mut socket, Purpose::Rpc, token).await.unwrap();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        settings.put_u16(INITIAL_WINDOW_SIZE);
        settings.put_u32(WINDOW_BYTES_MAX);
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        let more = (WINDOW_BYTES_MAX - WINDOW_BYTES).to_be_bytes();
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &more));
        socket.write_all(&hello).await.unwrap();
        // The other side's settings hold once they are acknowledged, and its window follows them.
        let mut peer = Self { socket, window_bytes: WINDOW_BYTES as usize };
        while peer.window_bytes == WINDOW_BYTES as usize {
            peer.read().await.unwrap();
        }
        peer.socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        peer
    }

    /// The next frame of the other side.
    pub(crate) async fn read(&mut self) -> io::Result<Frame> {
        let frame = read(&mut self.socket).await?;
        if let (WINDOW_UPDATE, 0) = (frame.kind, frame.stream) {
            self.window_bytes += be(&frame.payload);
        }
        Ok(frame)
    }

    /// Waits until all that was sent before has arrived, which the answer to a ping shows.
    pub(crate) async fn ping(&mut self) -> io::Result<()> {
        self.socket.write_all(&frame(PING, 0, 0, &[0; 8])).await?;
        while self.read().await?.kind != PING {}
        Ok(())
    }

    /// Sends a part of a stream's body as soon as the other side takes it.
    pub(crate) async fn send(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        for part in body.chunks(FRAME_BYTES_MAX) {
            while self.window_bytes < part.len() {
                self.read().await?;
            }
            self.window_bytes -= part.len();
            self.socket.write_all(&frame(DATA, 0, stream, part)).await?;
        }
        Ok(())
    }
}

/// The head of a call of `Sign` on this stream.
pub(crate) fn sign_call(stream: u32) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/sigil.enclave.v1.Enclave/Sign"),
        (":authority", "enclave"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that enters no table, both texts as they are.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &headers)
}

/// A message as it stands in a stream's body.
pub(crate) fn message(message: &impl Message) -> Bytes {
    let mut bytes = vec![0];
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.into()
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.put_uint(payload.len() as u64, 3);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.put_u32(stream);
    bytes.extend_from_slice(payload);
    bytes
}

/// The next frame of the other side.
pub(crate) async fn read(socket: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let mut payload = vec![0; be(&head[..3])];
    socket.read_exact(&mut payload).await?;
    let stream = u32::try_from(be(&head[5..])).unwrap();
    Ok(Frame { kind: head[3], stream, payload })
}

fn be(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
