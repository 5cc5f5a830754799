//! The parent's half of the boot heartbeat: whoever sends the byte gets it back. It says that the
//! enclave listens.

use std::time::Duration;

use sigil_enclave_protocol::bounds::HEARTBEAT_BYTE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// For one byte each way.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Wait after a failed `accept`: no descriptor is left.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Answers until it is dropped, and says when the first one came.
pub(super) async fn answer(listener: UnixListener, listens: watch::Sender<bool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        if let Ok(Ok(())) = timeout(ANSWER_TIME_MAX, answer_one(stream)).await {
            tracing::info!("heartbeat answered");
            listens.send_replace(true);
        } else {
            tracing::warn!("a connection to the heartbeat's port sent no heartbeat");
        }
    }
}

async fn answer_one(mut stream: UnixStream) -> std::io::Result<()> {
    if stream.read_u8().await? != HEARTBEAT_BYTE {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    stream.write_u8(HEARTBEAT_BYTE).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_byte_comes_back_and_another_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.vsock_9000");
        let (says, listens) = watch::channel(false);
        let answering = tokio::spawn(answer(UnixListener::bind(&path).unwrap(), says));
        for (sent, expected) in [(1, vec![]), (HEARTBEAT_BYTE, vec![HEARTBEAT_BYTE])] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_u8(sent).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!((answer.len() == 1, answer), (*listens.borrow(), expected));
        }
        answering.abort();
    }
}
