//! A wire between dataplane and enclave that can be wrong in more ways than being cut. It takes the
//! launcher's hand-off and gives it on with its own address, for each boot.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::handoff::Handoff;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{interval, sleep, timeout};

/// What happens when the bytes of a request pass.
type Trap = Arc<dyn Fn() + Send + Sync>;

/// The wire. Dropping it ends everything.
pub(crate) struct Cable {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    open: Mutex<Vec<AbortHandle>>,
    accepted: AtomicUsize,
    /// Connections that are open now stop carrying bytes; later ones do not.
    frozen: watch::Sender<usize>,
    /// Before each read of the enclave's answers.
    delay_ms: AtomicUsize,
    refuses: AtomicBool,
    trap: Mutex<Option<(Vec<u8>, Trap)>>,
    sprung: AtomicUsize,
}

impl Cable {
    /// Between the launcher at `launcher` and a dataplane that looks for it at `handoff`.
    pub(crate) fn start(launcher: &Path, handoff: &Path, folder: &Path) -> Self {
        let shared = Arc::new(Shared {
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            frozen: watch::Sender::new(0),
            delay_ms: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
            trap: Mutex::default(),
            sprung: AtomicUsize::new(0),
        });
        let handoffs = UnixListener::bind(handoff).unwrap();
        let (launcher, folder) = (launcher.to_owned(), folder.to_owned());
        let task = tokio::spawn(follow(launcher, folder, handoffs, Arc::clone(&shared)));
        Self { shared, tasks: vec![task] }
    }

    /// Cuts every connection that is open.
    pub(crate) fn cut(&self) {
        self.shared.accepted.store(0, Ordering::Relaxed);
        self.shared.open.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    /// Connections that came since the last cut.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Open connections carry nothing any more, and nobody is told: half-open sockets.
    pub(crate) fn freeze(&self) {
        self.shared.frozen.send_replace(self.accepted());
    }

    /// Every answer comes later by so much.
    pub(crate) fn slow_down(&self, delay: Duration) {
        let delay_ms = usize::try_from(delay.as_millis()).unwrap();
        self.shared.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// New connections end at once.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Springs when these bytes pass towards the enclave, each time.
    pub(crate) fn set_trap(&self, bytes: &[u8], trap: impl Fn() + Send + Sync + 'static) {
        *self.shared.trap.lock().unwrap() = Some((bytes.to_vec(), Arc::new(trap)));
    }

    /// How often it sprang.
    pub(crate) fn sprung(&self) -> usize {
        self.shared.sprung.load(Ordering::Relaxed)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One hand-off of the launcher after the other.
async fn follow(launcher: PathBuf, folder: PathBuf, handoffs: UnixListener, shared: Arc<Shared>) {
    let wire = folder.join("wire.sock");
    let enclaves = UnixListener::bind(&wire).unwrap();
    let enclave = Arc::new(Mutex::new(None));
    let forwarding = tokio::spawn(accept(enclaves, Arc::clone(&enclave), Arc::clone(&shared)));
    while !forwarding.is_finished() {
        let Some((mut stream, real)) = take(&launcher).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let EnclaveAddress::UnixPath(path) = real.address.clone() else { panic!("{real:?}") };
        *enclave.lock().unwrap() = Some(path);
        let given = Handoff { address: EnclaveAddress::UnixPath(wire.clone()), ..real };
        let mut open = Vec::new();
        // Ends with the boot: then whoever was told hears it too.
        let mut byte = [0];
        loop {
            tokio::select! {
                Ok((mut dataplane, _)) = handoffs.accept() => {
                    let _ = given.write(&mut dataplane).await;
                    open.push(dataplane);
                }
                _ = stream.read(&mut byte) => break,
            }
        }
    }
}

/// The launcher's hand-off, if it has an enclave.
async fn take(launcher: &Path) -> Option<(UnixStream, Handoff)> {
    let mut stream = UnixStream::connect(launcher).await.ok()?;
    let read = timeout(Duration::from_secs(2), Handoff::read(&mut stream)).await;
    Some((stream, read.ok()?.ok()?))
}

async fn accept(listener: UnixListener, enclave: Arc<Mutex<Option<PathBuf>>>, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let path = enclave.lock().unwrap().clone();
        if shared.refuses.load(Ordering::Relaxed) {
            continue;
        }
        let shared_too = Arc::clone(&shared);
        let connection = tokio::spawn(async move {
            let Some(path) = path else { return };
            let Ok(far) = UnixStream::connect(path).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = carry(near_read, far_write, (number, &shared_too), true) => {}
                () = carry(far_read, near_write, (number, &shared_too), false) => {}
            }
        });
        shared.open.lock().unwrap().push(connection.abort_handle());
    }
}

/// Bytes one way, until either end closes.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (number, shared): (usize, &Shared),
    to_enclave: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut last = Vec::new();
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if number < *shared.frozen.borrow() {
            std::future::pending::<()>().await;
        }
        if to_enclave {
            spring(&buffer[..count], &mut last, shared);
        } else {
            let delay_ms = shared.delay_ms.load(Ordering::Relaxed) as u64;
            sleep(Duration::from_millis(delay_ms)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// `last`: what passed before, as much as could be the first part of the bytes looked for.
fn spring(bytes: &[u8], last: &mut Vec<u8>, shared: &Shared) {
    let trap = shared.trap.lock().unwrap().clone();
    let Some((wanted, trap)) = trap else { return };
    last.extend_from_slice(bytes);
    if last.windows(wanted.len()).any(|window| window == wanted) {
        shared.sprung.fetch_add(1, Ordering::Relaxed);
        trap();
        last.clear();
    }
    let keep = last.len().saturating_sub(wanted.len());
    last.drain(..keep);
}

/// As many ticks as the closure needs to say so.
pub(crate) async fn while_running<T>(
    work: impl Future<Output = T>,
    mut each: impl AsyncFnMut(),
) -> T {
    tokio::pin!(work);
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => each().await,
        }
    }
}
