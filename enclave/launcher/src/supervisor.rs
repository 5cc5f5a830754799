//! start -> listening -> claimed -> ended -> start. Every boot is claimed by us or replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::{HandshakeError, claim};
use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_protocol::handshake::BootId;
use sigil_enclave_protocol::handshake::{ClaimToken, Refusal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::handoff::{self, Current};
use crate::socket::{self, SocketName};

/// Between two attempts to reach a process that starts.
const LISTEN_PERIOD: Duration = Duration::from_millis(20);
/// First wait before a restart; an enclave that dies at once must not burn the node.
const RESTART_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(5);
/// A boot that lived this long ends the series of short waits.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// How an enclave is started: one implementation for each kind of launcher.
pub trait Launch {
    /// What runs then.
    type Boot: Boot;

    /// Where the claim is handed over.
    fn handoff(&self) -> &SocketName;

    /// Where the enclave listens.
    fn address(&self) -> EnclaveAddress;

    /// Where `serve` is told to find it.
    fn address_of_serve(&self) -> EnclaveAddress {
        self.address()
    }

    /// Bound from the start to the first answer.
    fn listen_time_max(&self) -> Duration;

    /// Starts one.
    ///
    /// # Errors
    /// It cannot be started at all, and trying again would not help.
    fn start(&self) -> impl Future<Output = Result<Self::Boot, LauncherError>> + Send;
}

/// Who may listen at an enclave's address. Another one there is not claimed: its boot would be handed
/// over in place of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The process of this id, as long as it runs.
    Process(Option<i32>),
    /// Whoever has the context id, which the hypervisor gives to one enclave.
    Anybody,
}

/// One boot of an enclave. Dropping it kills what runs.
pub trait Boot: Send {
    /// Who listens at the address.
    fn listener(&self) -> Listener;

    /// Ends when it may be asked for a connection.
    fn listening(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }

    /// Waits until it has ended and says how.
    fn ended(&mut self) -> impl Future<Output = String> + Send;

    /// Ends it in order.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// Why a launcher cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The hand-off socket cannot be made.
    #[error("--handoff: {0}")]
    Handoff(io::Error),
    /// The bridge's socket cannot be made.
    #[error("--bridge: {0}")]
    Bridge(io::Error),
    /// A program cannot be started or a file cannot be used.
    #[error("{setting} {}: {source}", path.display())]
    Setting {
        /// Which setting names it.
        setting: &'static str,
        /// What it names.
        path: PathBuf,
        /// Why it is of no use.
        source: io::Error,
    },
}

impl LauncherError {
    /// Names a setting in an error.
    pub fn program(setting: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Setting { setting, path: path.to_owned(), source }
    }
}

/// Why a boot did not come to be claimed by us.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("did not listen and answer in time")]
    NotListening,
    #[error("another process listens at its address")]
    AnotherProcess,
    #[error("claimed by somebody else before us")]
    ClaimedByAnother,
    #[error("claim: {0}")]
    Handshake(#[from] HandshakeError),
}

/// Keeps a claimed enclave until `stop`, then ends it.
///
/// # Errors
/// The hand-off socket or the executable cannot be used. An enclave that ends is restarted instead.
pub async fn run<L: Launch>(
    launch: &L,
    stop: impl Future<Output = ()>,
) -> Result<(), LauncherError> {
    let listener = launch.handoff().listen().map_err(LauncherError::Handoff)?;
    let (current, readers) = watch::channel(None);
    let handoffs = tokio::spawn(handoff::serve(listener, readers));
    tokio::pin!(stop);
    let result = keep(launch, &current, stop).await;
    current.send_replace(None);
    handoffs.abort();
    result
}

async fn keep<L: Launch>(
    launch: &L,
    current: &watch::Sender<Current>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), LauncherError> {
    let mut wait = RESTART_WAIT_MIN;
    loop {
        let started = Instant::now();
        let mut boot = launch.start().await?;
        let stopped = tokio::select! {
            () = stop.as_mut() => true,
            () = live(launch, current, &mut boot) => false,
        };
        current.send_replace(None);
        boot.stop().await;
        if stopped {
            tracing::info!("stopped");
            return Ok(());
        }
        if started.elapsed() >= STABLE_AFTER {
            wait = RESTART_WAIT_MIN;
        }
        tokio::select! {
            () = stop.as_mut() => return Ok(()),
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(RESTART_WAIT_MAX);
    }
}

/// One boot: claimed, handed over, until its end. Every return means: replace it.
async fn live<L: Launch>(launch: &L, current: &watch::Sender<Current>, boot: &mut L::Boot) {
    let (address, listener) = (launch.address(), boot.listener());
    let listening = boot.listening();
    let claimed = async {
        listening.await;
        claim_boot(&address, listener).await
    };
    let claimed = tokio::select! {
        claimed = timeout(launch.listen_time_max(), claimed) => {
            claimed.unwrap_or(Err(ClaimError::NotListening))
        }
        status = boot.ended() => {
            tracing::error!(%status, "enclave ended before it was claimed");
            return;
        }
    };
    match claimed {
        Ok((boot_id, token)) => {
            let address = launch.address_of_serve();
            tracing::info!(%boot_id, %address, "enclave claimed");
            current.send_replace(Some(Handoff { boot_id, token, address }));
            let status = boot.ended().await;
            tracing::error!(%boot_id, %status, "enclave ended");
        }
        Err(error) => tracing::error!(%error, "enclave not claimed, replacing it"),
    }
}

/// Waits until the enclave listens, then claims it. It closes what it has no room for while others
/// flood it; that is no reason to replace it.
async fn claim_boot(
    address: &EnclaveAddress,
    listener: Listener,
) -> Result<(BootId, ClaimToken), ClaimError> {
    loop {
        match claim_once(address, listener).await {
            Err(ClaimError::Handshake(HandshakeError::Io(_))) => {}
            result => return result,
        }
        sleep(LISTEN_PERIOD).await;
    }
}

async fn claim_once(
    address: &EnclaveAddress,
    listener: Listener,
) -> Result<(BootId, ClaimToken), ClaimError> {
    let mut stream = socket::open(address).await.map_err(HandshakeError::Io)?;
    if let Listener::Process(pid) = listener
        && (pid.is_none() || stream.peer() != pid)
    {
        return Err(ClaimError::AnotherProcess);
    }
    match claim(&mut stream).await {
        Ok((accepted, token)) => Ok((accepted.hello.boot_id, token)),
        Err(HandshakeError::Refused(Refusal::AlreadyClaimed)) => Err(ClaimError::ClaimedByAnother),
        Err(error) => Err(ClaimError::Handshake(error)),
    }
}
