//! Carries connections from an abstract socket to the enclave, byte for byte. In a pod, launcher and
//! `serve` share a network namespace and no volume. The enclave itself asks each caller for its
//! proof, so whoever else connects here gets no further than at the enclave's own port.

use std::sync::Arc;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_protocol::bounds::CONNECTIONS_MAX;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::heartbeat::ACCEPT_RETRY;
use crate::socket;

/// Serves until it is dropped, and ends its connections then.
pub(super) async fn serve(listener: UnixListener, enclave: EnclaveAddress) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        let enclave = enclave.clone();
        connections.spawn(async move {
            // An error is the end of one of the two; the other sees it.
            let _ = carry(stream, &enclave).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: UnixStream, enclave: &EnclaveAddress) -> std::io::Result<()> {
    let mut far = socket::open(enclave).await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_pass_both_ways_and_an_end_at_one_side_is_one_at_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let guest = UnixListener::bind(at("vm.vsock")).unwrap();
        let near = UnixListener::bind(at("near")).unwrap();
        let enclave = EnclaveAddress::VhostVsock { path: at("vm.vsock"), port: 5000 };
        let serving = tokio::spawn(serve(near, enclave));
        let mut caller = UnixStream::connect(at("near")).await.unwrap();
        let (mut enclave, _) = guest.accept().await.unwrap();
        let mut line = [0; 13];
        enclave.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"CONNECT 5000\n");
        enclave.write_all(b"OK 7\nhello").await.unwrap();
        let mut hello = [0; 5];
        caller.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        caller.write_all(b"proof").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut proof = Vec::new();
        enclave.read_to_end(&mut proof).await.unwrap();
        assert_eq!(proof, b"proof");
        drop(enclave);
        assert_eq!(caller.read(&mut hello).await.unwrap(), 0);
        serving.abort();
    }
}
