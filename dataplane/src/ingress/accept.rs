//! From an accepted socket to a connection that has a place: TLS first, if there is any.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::handshakes::Handshake;
use super::listener::Stream;
use super::peer::{Peer, Subject};
use super::{Ingress, stopped};
use crate::metrics::Connected;
use crate::tls::Tls;

/// Row G1: time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// TLS handshakes of one worker that are open at once; as many as it may have connections, so that all
/// its clients may come at once.
pub(super) const HANDSHAKES_MAX: usize = super::CONNECTIONS_MAX;
/// How often a client's certificate is verified again while its connection lasts.
pub(super) const VERIFY_INTERVAL: Duration = Duration::from_secs(30);

/// Whom a connection serves.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) peer: Peer,
    /// The certificates that it has shown, its own first.
    chain: Vec<CertificateDer<'static>>,
}

/// Why a handshake led to no connection; the closed list of the label `reason`.
enum Refused {
    /// TLS failed: no certificate, one of another authority, another version, or not TLS at all.
    Failed(std::io::Error),
    Timeout,
    /// It was the oldest when one more came than may be open.
    CrowdedOut,
    /// The certificate verified and names nobody.
    Nameless,
}

// === impl Client ===

impl From<Peer> for Client {
    fn from(peer: Peer) -> Self {
        Self { peer, chain: Vec::new() }
    }
}

impl Client {
    fn of<S>(stream: &TlsStream<S>) -> Result<Self, Refused> {
        let (_, session) = stream.get_ref();
        let chain: Vec<_> = session.peer_certificates().unwrap_or_default().to_vec();
        let peer = match chain.first() {
            None => Peer::Anonymous,
            Some(own) => Peer::Certificate(Subject::of(own).ok_or(Refused::Nameless)?),
        };
        Ok(Self { peer, chain })
    }

    /// Ends when the client's certificate no longer lets it in: it has expired, or its authority is gone.
    pub(super) async fn expelled(&self, tls: Option<Arc<Tls>>) {
        let Some(tls) = tls.filter(|_| !self.chain.is_empty()) else { return pending().await };
        loop {
            sleep(VERIFY_INTERVAL).await;
            if !tls.admits(&self.chain) {
                return;
            }
        }
    }
}

// === impl Refused ===

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Timeout => "timeout",
            Self::CrowdedOut => "crowded_out",
            Self::Nameless => "nameless",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Failed(error) => error.to_string(),
            Self::Timeout => "the handshake did not end in time".to_owned(),
            Self::CrowdedOut => "newer handshakes took its place".to_owned(),
            Self::Nameless => {
                "the certificate has no URI, no DNS name and no one common name".to_owned()
            }
        }
    }
}

// === impl Ingress ===

impl Ingress {
    /// Serves an accepted socket on a task of its own, if there is a place.
    pub(super) fn admit(
        self: &Arc<Self>,
        stream: Stream,
        connections: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        let (this, stop) = (Arc::clone(self), stop.clone());
        if let Some(tls) = self.tls.clone() {
            let handshake = self.handshakes.begin();
            connections.spawn(this.admit_tls(tls, stream, handshake, stop));
        } else if let (Some(place), Ok(peer)) = (self.place(), stream.peer()) {
            connections.spawn(async move {
                this.connection(stream, peer.into(), stop).await;
                drop(place);
            });
        }
    }

    /// A connection gets its place when the handshake is over: who never ends one has none.
    async fn admit_tls(
        self: Arc<Self>,
        tls: Arc<Tls>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        handshake: Handshake,
        mut stop: watch::Receiver<bool>,
    ) {
        let shaken = tokio::select! {
            ended = timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)) => match ended {
                Ok(Ok(stream)) => Client::of(&stream).map(|client| (stream, client)),
                Ok(Err(error)) => Err(Refused::Failed(error)),
                Err(_) => Err(Refused::Timeout),
            },
            () = handshake.crowded_out() => Err(Refused::CrowdedOut),
            () = stopped(&mut stop) => return,
        };
        drop(handshake);
        match shaken {
            Ok((stream, client)) => {
                let Some(place) = self.place() else { return };
                // Apart on the heap, or every open handshake would be as large as a connection.
                Box::pin(self.connection(stream, client, stop)).await;
                drop(place);
            }
            Err(refused) => self.refused(&refused),
        }
    }

    /// Connections are closed at once when all places are taken: a client that waits in vain could not
    /// tell this from a dead process.
    fn place(&self) -> Option<(OwnedSemaphorePermit, Connected)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.app.metrics.connections_refused.inc();
        }
        place.map(|place| (place, self.app.metrics.connected()))
    }

    fn refused(&self, refused: &Refused) {
        let reason = refused.reason();
        self.app.metrics.tls_handshake_failed(reason);
        // Anybody can have these written, as often as they connect.
        if let Some(left_out) = self.handshake_lines.admit(Instant::now()) {
            let detail = refused.detail();
            tracing::info!(reason, detail, left_out, "a client's TLS handshake failed");
        }
    }
}

#[cfg(test)]
mod tests;
