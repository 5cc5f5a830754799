//! Gives the claimed enclave to `serve`: one frame, then silence for as long as that boot lives.

use std::time::Duration;

use sigil_enclave_client::handoff::Handoff;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The enclave that is claimed now, if any.
pub type Current = Option<Handoff>;

/// Peers connected at once: `serve`, its successor while it restarts, and tools.
const PEERS_MAX: usize = 16;
/// Time to write one frame of some hundred bytes to a local socket.
const WRITE_TIME_MAX: Duration = Duration::from_secs(2);

/// Serves hand-offs until dropped. A peer that connects before the enclave is claimed waits; when
/// the boot ends its connection closes, and it connects again.
pub async fn serve(listener: UnixListener, current: watch::Receiver<Current>) {
    let mut peers = JoinSet::new();
    loop {
        while peers.len() >= PEERS_MAX {
            peers.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                if same_user(&stream) {
                    peers.spawn(hand_over(stream, current.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "hand-off: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while peers.try_join_next().is_some() {}
    }
}

/// The token goes to processes of our own user only. Abstract sockets have no file permissions.
fn same_user(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "hand-off refused: another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "hand-off refused: unknown peer");
            false
        }
    }
}

async fn hand_over(mut stream: UnixStream, mut current: watch::Receiver<Current>) {
    let Ok(handoff) = current.wait_for(Option::is_some).await.map(|current| current.clone()) else {
        return;
    };
    let Some(handoff) = handoff else { return };
    let boot_id = handoff.boot_id;
    if !matches!(timeout(WRITE_TIME_MAX, handoff.write(&mut stream)).await, Ok(Ok(()))) {
        return;
    }
    tracing::info!(%boot_id, "enclave handed over");
    let same_boot = |current: &Current| current.as_ref().is_some_and(|c| c.boot_id == boot_id);
    let mut byte = [0];
    tokio::select! {
        _ = current.wait_for(|current| !same_boot(current)) => {}
        // The peer says nothing; it reads as its end.
        _ = stream.read(&mut byte) => {}
    }
}
