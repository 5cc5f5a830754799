//! The process around the passes: lease, watches, metrics, signals.

pub mod events;
pub mod lease;
pub mod metrics;
pub mod server;
pub mod watches;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::signer_pool::Context;
use events::Events;
use metrics::Metrics;

/// Time for passes under way after SIGTERM. A pass that is cut off is repeated by the next leader;
/// one that has not begun, since its watches were not ready yet, would be waited for in vain.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Options of `sigil-operator run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Namespace of the operator: its lease, and the ConfigMap `sigil-measurements`.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// Name of this process in the lease and in events.
    #[arg(long, default_value = "sigil-operator")]
    pub identity: String,
    /// Where `/livez` and `/readyz` answer.
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub health_address: SocketAddr,
    /// Where `/metrics` answers. Nobody is authenticated: keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:9090")]
    pub metrics_address: SocketAddr,
}

/// Why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The async runtime could not start.
    #[error("starting the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// No way to the API server is known.
    #[error("no way to the API server is known: {0}")]
    Config(#[source] Box<kube::Error>),
    /// A listener could not be opened.
    #[error("listening on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Signals cannot be received.
    #[error("receiving signals: {0}")]
    Signal(#[source] io::Error),
    /// Another process may lead now; this one must not go on.
    #[error("the lease is lost: {0}")]
    LeaseLost(String),
    /// The controller ended although nobody asked it to.
    #[error("the controller ended by itself")]
    ControllerEnded,
}

// === impl RunError ===

impl RunError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::LeaseLost(_) => 2,
            _ => 1,
        }
    }
}

/// Waits for the lease, then makes passes until SIGTERM.
///
/// # Errors
/// Why it ended other than by a signal.
pub async fn run(args: Args) -> Result<(), RunError> {
    let stop = stop_signal()?;
    let client = Client::try_default().await.map_err(|e| RunError::Config(Box::new(e)))?;
    run_with(args, client, stop).await
}

/// [`run`] with a client and a stop signal of the caller's choice.
///
/// # Errors
/// Why it ended other than by the signal.
pub async fn run_with(
    args: Args,
    client: Client,
    mut stop: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new());
    server::start(args.health_address, server::Pages::Health, Arc::clone(&metrics)).await?;
    server::start(args.metrics_address, server::Pages::Metrics, Arc::clone(&metrics)).await?;

    let lease = lease::Lease::new(client.clone(), &args.namespace, &args.identity);
    let Some(held) = lease.acquire(stop.clone()).await else { return Ok(()) };
    let stopped = stop.clone();
    metrics.leader.set(1);
    tracing::info!(identity = args.identity, "leading");

    let context = Arc::new(Context {
        client: client.clone(),
        events: Events::new(client, &args.identity),
        own_namespace: args.namespace.clone(),
    });
    let passes = watches::controller(&context, Arc::clone(&metrics), stop.clone());
    let out_of_time = async {
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let result = tokio::select! {
        () = passes.for_each(|()| std::future::ready(())) => {
            if *stopped.borrow() { Ok(()) } else { Err(RunError::ControllerEnded) }
        }
        () = out_of_time => Ok(()),
        lost = held.keep() => Err(RunError::LeaseLost(lost)),
    };
    metrics.leader.set(0);
    if result.is_ok() {
        held.release().await;
    }
    result
}

fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(receiver)
}
