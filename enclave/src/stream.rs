//! A byte stream over any connected socket. It is a plain descriptor under tokio, so that a
//! connection can be accepted on the control thread and served on a worker. No call on it waits, so
//! no signal interrupts one.
#![allow(unsafe_code, reason = "tokio asks for a promise that the descriptor stays the same")]

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};
use sigil_enclave_protocol::bounds::VSOCK_WRITE_BYTES_MAX;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Buffers of one write: HTTP/2 hands over a frame's head and its body.
const SLICES_MAX: usize = 4;

/// A connected stream socket, non-blocking.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    /// The descriptor cannot be made non-blocking or registered.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        register(fd).map(Self)
    }

    /// Takes the socket out of the runtime.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }
}

/// A listening stream socket.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    /// The descriptor cannot be made non-blocking or registered.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        register(fd).map(Self)
    }

    /// The next connection.
    ///
    /// # Errors
    /// The connection was gone again, or no descriptor is left.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.0.readable().await?;
            let accept =
                |fd: &AsyncFd<_>| Ok(net::accept_with(fd.get_ref(), SocketFlags::CLOEXEC)?);
            if let Ok(result) = guard.try_io(accept) {
                return result;
            }
        }
    }
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: the descriptor is owned, so it stays open and the same while it is registered.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            let done = guard.try_io(|fd| Ok(net::recv(fd, &mut *unfilled, RecvFlags::empty())?));
            if let Ok(result) = done {
                return Poll::Ready(result.map(|(_, count)| buf.advance(count)));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// Writes at most [`VSOCK_WRITE_BYTES_MAX`]. A frame's head and body go out with one call.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = VSOCK_WRITE_BYTES_MAX;
        let mut capped = [IoSlice::new(&[]); SLICES_MAX];
        for (slice, buf) in capped.iter_mut().zip(bufs) {
            *slice = IoSlice::new(buf.get(..room).unwrap_or(buf));
            room -= slice.len();
        }
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let mut nothing = SendAncillaryBuffer::default();
            let done = guard
                .try_io(|fd| Ok(net::sendmsg(fd, &capped, &mut nothing, SendFlags::NOSIGNAL)?));
            if let Ok(result) = done {
                return Poll::Ready(result);
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(net::shutdown(self.0.get_ref(), Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_writes_are_capped() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut left = Stream::new(left.into()).unwrap();
        let mut right = Stream::new(right.into()).unwrap();
        let message = vec![7; 3 * VSOCK_WRITE_BYTES_MAX];
        let (head, body) = message.split_at(VSOCK_WRITE_BYTES_MAX - 9);
        let both = [IoSlice::new(head), IoSlice::new(body)];
        assert_eq!(left.write_vectored(&both).await.unwrap(), VSOCK_WRITE_BYTES_MAX);
        let rest = tokio::spawn(async move {
            left.write_all(&message[VSOCK_WRITE_BYTES_MAX..]).await.unwrap();
            left.shutdown().await.unwrap();
            let mut answer = Vec::new();
            left.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut read = Vec::new();
        right.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 3 * VSOCK_WRITE_BYTES_MAX);
        right.write_all(b"done").await.unwrap();
        drop(right);
        assert_eq!(rest.await.unwrap(), b"done");
    }
}
