//! A guest whose vsock is a unix socket of the host (`vhost-device-vsock`, as Firecracker's): the
//! caller names the port in a line of text, is told `OK` in another, and has a byte stream then.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use sigil_enclave_protocol::bounds::HANDSHAKE_TIME_MAX;

/// Bytes of the answer, its newline included: `OK` and a port of at most ten digits.
const ANSWER_BYTES_MAX: usize = 16;

/// Asks for a port of the guest over a connection to its socket. The stream is the enclave's when
/// this returns; not a byte of it has been read.
///
/// # Errors
/// Nobody listens there (`ConnectionRefused`), or no guest answers within [`HANDSHAKE_TIME_MAX`].
pub async fn ask_for_port<S>(stream: &mut S, port: u32) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let work = async {
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        // One byte at a time: the enclave speaks first, and right after the line.
        while answer.last() != Some(&b'\n') {
            if answer.len() >= ANSWER_BYTES_MAX {
                return Err(no_answer("its answer is too long"));
            }
            answer.push(stream.read_u8().await.map_err(|_| refused())?);
        }
        let bound = answer.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b"\n"));
        let digits = bound.filter(|digits| !digits.is_empty());
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_digit)) {
            return Err(no_answer("its answer is not `OK PORT`"));
        }
        Ok(())
    };
    timeout(HANDSHAKE_TIME_MAX, work).await?
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens at this port of the guest")
}

fn no_answer(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    async fn ask(answer: &[u8]) -> (io::Result<()>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(64);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let asked = ask_for_port(&mut ours, 5000).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        drop(ours);
        let mut question = Vec::new();
        theirs.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"CONNECT 5000\n");
        (asked, rest)
    }

    #[tokio::test]
    async fn what_follows_the_line_belongs_to_the_caller() {
        let (asked, rest) = ask(b"OK 1073741824\nSGL1").await;
        asked.unwrap();
        assert_eq!(rest, b"SGL1");
    }

    #[tokio::test]
    async fn any_other_answer_is_refused() {
        for answer in [b"OK \n".as_slice(), b"NO 1\n", b"OK 1x\n", b"OK 12345678901234567890\n"] {
            let kind = ask(answer).await.0.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidData, "{answer:?}");
        }
        for answer in [b"".as_slice(), b"OK 12"] {
            let kind = ask(answer).await.0.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::ConnectionRefused, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_two_seconds() {
        let (mut ours, _theirs) = duplex(64);
        let started = tokio::time::Instant::now();
        let error = ask_for_port(&mut ours, 5000).await.unwrap_err();
        assert_eq!(
            (error.kind(), started.elapsed()),
            (io::ErrorKind::TimedOut, HANDSHAKE_TIME_MAX)
        );
    }
}
