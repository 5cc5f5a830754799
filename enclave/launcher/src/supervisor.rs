//! start -> listening -> claimed -> ended -> start. Every boot is claimed by us or replaced.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::{HandshakeError, claim};
use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_protocol::handshake::BootId;
use sigil_enclave_protocol::handshake::{ClaimToken, Refusal};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::handoff::{self, Current};
use crate::process::EnclaveProcess;
use crate::socket::{self, SocketName};

/// From start to the first answer: the process reads its pins and makes its keys.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(20);
/// Between two attempts to reach a process that starts.
const LISTEN_PERIOD: Duration = Duration::from_millis(20);
/// First wait before a restart; an enclave that dies at once must not burn the node.
const RESTART_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a restart.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(5);
/// A boot that lived this long ends the series of short waits.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What to run and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Enclave executable; started as `EXECUTABLE serve --pins FILE --listen ADDRESS --workers N`.
    #[arg(long)]
    pub enclave: PathBuf,
    /// Its pins (pins.cbor).
    #[arg(long)]
    pub pins: PathBuf,
    /// Where it listens: unix:@NAME or unix:PATH.
    #[arg(long)]
    pub listen: EnclaveAddress,
    /// Where the claim is handed over to `serve`: @NAME or a path.
    #[arg(long)]
    pub handoff: SocketName,
    /// Signing workers of the enclave.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
}

/// Why a launcher cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The hand-off socket cannot be made.
    #[error("--handoff: {0}")]
    Handoff(io::Error),
    /// The enclave cannot be started.
    #[error("--enclave {executable}: {source}")]
    Enclave {
        /// What was to be started.
        executable: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
}

/// Why a boot did not come to be claimed by us.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("did not listen and answer within {LISTEN_TIME_MAX:?}")]
    NotListening,
    #[error("another process listens at its address")]
    AnotherProcess,
    #[error("claimed by somebody else before us")]
    ClaimedByAnother,
    #[error("claim: {0}")]
    Handshake(HandshakeError),
}

/// Keeps a claimed enclave until `stop`, then ends it.
///
/// # Errors
/// The hand-off socket or the executable cannot be used. An enclave that ends is restarted instead.
pub async fn run(settings: &Settings, stop: impl Future<Output = ()>) -> Result<(), LauncherError> {
    let listener = settings.handoff.listen().map_err(LauncherError::Handoff)?;
    let (current, readers) = watch::channel(None);
    let handoffs = tokio::spawn(handoff::serve(listener, readers));
    tokio::pin!(stop);
    let result = keep(settings, &current, stop).await;
    current.send_replace(None);
    handoffs.abort();
    result
}

async fn keep(
    settings: &Settings,
    current: &watch::Sender<Current>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), LauncherError> {
    let mut wait = RESTART_WAIT_MIN;
    loop {
        let started = Instant::now();
        let mut process = start(settings)?;
        let stopped = tokio::select! {
            () = stop.as_mut() => true,
            () = live(settings, current, &mut process) => false,
        };
        current.send_replace(None);
        process.stop().await;
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
async fn live(settings: &Settings, current: &watch::Sender<Current>, process: &mut EnclaveProcess) {
    let pid = process.pid();
    let claimed = tokio::select! {
        claimed = claim_boot(&settings.listen, pid) => claimed,
        status = process.ended() => {
            tracing::error!(%status, "enclave ended before it was claimed");
            return;
        }
    };
    match claimed {
        Ok((boot_id, token)) => {
            let address = settings.listen.clone();
            tracing::info!(%boot_id, %address, "enclave claimed");
            current.send_replace(Some(Handoff { boot_id, token, address }));
            let status = process.ended().await;
            tracing::error!(%boot_id, %status, "enclave ended");
        }
        Err(error) => tracing::error!(%error, "enclave not claimed, replacing it"),
    }
}

fn start(settings: &Settings) -> Result<EnclaveProcess, LauncherError> {
    EnclaveProcess::start(&settings.enclave, &settings.pins, &settings.listen, settings.workers)
        .map_err(|source| LauncherError::Enclave { executable: settings.enclave.clone(), source })
}

/// Waits until the enclave listens, then claims it. It closes what it has no room for while others
/// flood it; that is no reason to replace it.
async fn claim_boot(
    address: &EnclaveAddress,
    pid: Option<i32>,
) -> Result<(BootId, ClaimToken), ClaimError> {
    let attempts = async {
        loop {
            if let Ok(stream) = socket::connect(address) {
                match claim_over(stream, pid).await {
                    Err(ClaimError::Handshake(HandshakeError::Io(_))) => {}
                    result => return result,
                }
            }
            sleep(LISTEN_PERIOD).await;
        }
    };
    timeout(LISTEN_TIME_MAX, attempts).await.unwrap_or(Err(ClaimError::NotListening))
}

/// Whoever else listens at that address is not claimed: its boot would be handed over in place of
/// ours.
async fn claim_over(
    mut stream: UnixStream,
    pid: Option<i32>,
) -> Result<(BootId, ClaimToken), ClaimError> {
    let listener = stream.peer_cred().ok().and_then(|peer| peer.pid());
    if listener.is_none() || listener != pid {
        return Err(ClaimError::AnotherProcess);
    }
    match claim(&mut stream).await {
        Ok((accepted, token)) => Ok((accepted.hello.boot_id, token)),
        Err(HandshakeError::Refused(Refusal::AlreadyClaimed)) => Err(ClaimError::ClaimedByAnother),
        Err(error) => Err(ClaimError::Handshake(error)),
    }
}
