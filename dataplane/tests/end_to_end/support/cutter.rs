//! A cable between dataplane and enclave that can be cut. It takes the launcher's hand-off and gives it
//! on with its own address; bytes pass untouched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::handoff::Handoff;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};

use super::eventually;

/// The cable. Dropping it ends everything.
pub(crate) struct Cutter {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<AbortHandle>>,
    accepted: AtomicUsize,
}

impl Cutter {
    /// Between the launcher at `launcher` and a dataplane that looks for it at `handoff`.
    pub(crate) async fn start(launcher: &Path, handoff: &Path, folder: &Path) -> Self {
        Self::start_on(UnixListener::bind(handoff).unwrap(), launcher, folder).await
    }

    /// The same with a listener for the dataplane that somebody opened.
    pub(crate) async fn start_on(handoffs: UnixListener, launcher: &Path, folder: &Path) -> Self {
        let mut stream =
            eventually("the launcher", async || UnixStream::connect(launcher).await.ok()).await;
        let real = Handoff::read(&mut stream).await.unwrap();
        let EnclaveAddress::UnixPath(enclave) = real.address.clone() else { panic!("{real:?}") };
        let cable = folder.join("cable.sock");
        let given = Handoff { address: EnclaveAddress::UnixPath(cable.clone()), ..real };
        let shared = Arc::new(Shared::default());
        // An earlier cable's.
        let _ = std::fs::remove_file(&cable);
        let enclaves = UnixListener::bind(cable).unwrap();
        let tasks = vec![
            tokio::spawn(forward(enclaves, enclave, Arc::clone(&shared))),
            tokio::spawn(hand_on(handoffs, given)),
            // The real hand-off stays open as long as the cable does.
            tokio::spawn(async move {
                let _ = stream.read_u8().await;
            }),
        ];
        Self { shared, tasks }
    }

    /// Cuts every connection that is open.
    pub(crate) fn cut(&self) {
        self.shared.accepted.store(0, Ordering::Relaxed);
        self.shared.open.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    /// Connections that came since the cut.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.cut();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn forward(listener: UnixListener, enclave: PathBuf, shared: Arc<Shared>) {
    while let Ok((mut near, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let enclave = enclave.clone();
        let connection = tokio::spawn(async move {
            let mut far = UnixStream::connect(enclave).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
        shared.open.lock().unwrap().push(connection.abort_handle());
    }
}

async fn hand_on(listener: UnixListener, given: Handoff) {
    let mut open = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        given.write(&mut stream).await.unwrap();
        open.push(stream);
    }
}
