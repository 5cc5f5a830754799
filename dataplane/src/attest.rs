//! From the launcher's hand-off to a boot that may be routed to. A boot is attested once, before
//! anything is sent to it: own nonce, chain to the configured root, measurements on the list, and the
//! boot's identity in document and handshake.

use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_protocol::bounds::ATTEST_NONCE_BYTES;
use sigil_enclave_protocol::v1::{AttestRequest, ErrorCode, HealthRequest, StatsRequest};
use sigil_verifier::{PcrAllowList, TrustRoot, UserData, verify_live};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::now_ms;
use crate::config::live::Live;
use crate::metrics::Metrics;
use crate::pool::Boot;
use crate::pool::backoff::{Backoff, random};
use crate::pool::session::{Keepalive, Session};
use crate::pool::transport::connect_abstract;
use crate::status::{MeasurementStatus, StatusWriter};

mod birth;
mod cache;
mod health;
mod trust;

pub(crate) use birth::{BirthError, BirthVerifier, Expected};
pub use trust::{Trust, TrustError};

/// A launcher that accepts sends at once.
const HANDOFF_TIME_MAX: Duration = Duration::from_secs(2);
/// One attestation, connection included.
const ATTEST_TIME_MAX: Duration = Duration::from_secs(5);
/// A live document is as old as one round trip.
const DOCUMENT_AGE_MS_MAX: u64 = 60_000;
/// How often the enclave's random generator is looked at.
const HEALTH_PERIOD: Duration = Duration::from_secs(10);
/// It would unlock nothing, so it is not routed to; see decision 16.
const OTHER_ROOT: &str = "the enclave's documents do not verify against the attestation root that \
                          its image is pinned to";
const RETRY_MIN: Duration = Duration::from_millis(25);
/// A launcher that starts an enclave needs seconds; it is found soon after it listens.
const HANDOFF_RETRY_MAX: Duration = Duration::from_millis(200);
/// An enclave that does not attest will mostly not do so a moment later either.
const ATTEST_RETRY_MAX: Duration = Duration::from_secs(2);

/// Follows the launcher and publishes attested boots.
pub(crate) struct Attester {
    pub(crate) handoff: String,
    pub(crate) trust: Arc<Trust>,
    /// Settings of the key cache that each boot gets, and again when they change.
    pub(crate) live: Arc<Live>,
    pub(crate) boots: watch::Sender<Option<Arc<Boot>>>,
    pub(crate) status: StatusWriter,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why there is no boot yet.
#[derive(Debug, thiserror::Error)]
enum AttestError {
    #[error("connection: {0}")]
    Session(String),
    #[error("the enclave answers {0}")]
    Enclave(&'static str),
    #[error("{0}")]
    Document(String),
    #[error("no answer within {ATTEST_TIME_MAX:?}")]
    Timeout,
    #[error("no random bytes")]
    Random,
}

impl Attester {
    /// Runs for ever: one hand-off after the other.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(RETRY_MIN, HANDOFF_RETRY_MAX);
        let mut silent = false;
        loop {
            match self.receive().await {
                Ok((handoff, stream)) => {
                    backoff.reset();
                    silent = false;
                    self.follow(handoff, stream).await;
                }
                Err(error) if !silent => {
                    // Said once: a launcher that is not there yet is refused five times a second.
                    tracing::info!(handoff = self.handoff, %error, "waiting for the launcher");
                    silent = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.wait(random())).await;
        }
    }

    async fn receive(&self) -> std::io::Result<(Handoff, UnixStream)> {
        let mut stream = match self.handoff.strip_prefix('@') {
            Some(name) => connect_abstract(name)?,
            None => UnixStream::connect(&self.handoff).await?,
        };
        let peer = stream.peer_cred()?.uid();
        let own = rustix::process::geteuid().as_raw();
        same_user(peer, own)?;
        let handoff = timeout(HANDOFF_TIME_MAX, Handoff::read(&mut stream))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Ok((handoff, stream))
    }

    /// Attests the boot and stays with it until the launcher ends it.
    async fn follow(&self, handoff: Handoff, mut stream: UnixStream) {
        tracing::info!(boot_id = %handoff.boot_id, address = %handoff.address, "enclave handed over");
        self.status.update(|status| {
            status.running = true;
            status.boot_id = Some(handoff.boot_id.to_string());
            status.address = Some(handoff.address.to_string());
        });
        let mut byte = [0];
        tokio::select! {
            // Nothing is ever sent after the frame: any read is the end.
            _ = stream.read(&mut byte) => {}
            () = self.keep(&handoff) => {}
        }
        tracing::warn!(boot_id = %handoff.boot_id, "enclave gone");
        self.boots.send_replace(None);
        self.status.enclave_gone();
        self.metrics.rng_unknown();
        self.metrics.enclave.gone();
    }

    async fn keep(&self, handoff: &Handoff) {
        let mut backoff = Backoff::new(RETRY_MIN, ATTEST_RETRY_MAX);
        let boot = loop {
            let attested = timeout(ATTEST_TIME_MAX, self.attest(handoff)).await;
            match attested.unwrap_or(Err(AttestError::Timeout)) {
                Ok(boot) => break boot,
                Err(error) => {
                    let why = error.to_string();
                    tracing::warn!(boot_id = %handoff.boot_id, why, "enclave not attested");
                    self.status.update(|status| status.attestation_error = Some(why));
                    tokio::time::sleep(backoff.wait(random())).await;
                }
            }
        };
        // Before anything is routed to it. An enclave that does not answer this time signs all the same
        // and is asked again with its health.
        let mut changed = self.live.subscribe();
        let mut settled = self.settle_cache(handoff).await;
        self.boots.send_replace(Some(Arc::new(boot)));
        let mut health = health::Health::default();
        loop {
            health.observed(&self.observe_health(handoff).await, &self.status);
            if !settled {
                settled = self.settle_cache(handoff).await;
            }
            tokio::select! {
                () = tokio::time::sleep(HEALTH_PERIOD) => {}
                // Its sender lives as long as this.
                _ = changed.changed() => settled = false,
            }
        }
    }

    async fn attest(&self, handoff: &Handoff) -> Result<Boot, AttestError> {
        let mut session = self.open(handoff).await?;
        let mut nonce = [0_u8; ATTEST_NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AttestError::Random)?;
        let request = AttestRequest { nonce: nonce.to_vec().into() };
        let reply = session.client.attest(request).await;
        let reply = reply.map_err(|s| AttestError::Session(s.to_string()))?.into_inner();
        enclave_ok(reply.error)?;
        let boot = self.check(handoff, &reply.document, &nonce)?;
        let health = session.client.health(HealthRequest {}).await;
        let health = health.map_err(|s| AttestError::Session(s.to_string()))?.into_inner();
        if !health.documents_verify {
            return Err(AttestError::Document(OTHER_ROOT.to_owned()));
        }
        self.status.update(|status| {
            status.attested = true;
            status.attestation_error = None;
            status.trusted = boot.trusted;
            status.measurements = Some(boot.measurements.clone());
        });
        tracing::info!(
            boot_id = %handoff.boot_id,
            pcr0 = boot.measurements.pcr0,
            trusted = boot.trusted,
            "enclave attested"
        );
        Ok(boot.boot)
    }

    fn check(
        &self,
        handoff: &Handoff,
        document: &[u8],
        nonce: &[u8],
    ) -> Result<CheckedBoot, AttestError> {
        check_document(&self.trust.root, &self.trust.images, handoff, document, nonce)
            .map_err(AttestError::Document)
    }

    async fn open(&self, handoff: &Handoff) -> Result<Session, AttestError> {
        let keepalive = Keepalive::NONE;
        Session::open(&handoff.address, handoff.boot_id, &handoff.token, keepalive)
            .await
            .map_err(|error| AttestError::Session(error.to_string()))
    }

    /// True once the enclave has taken or refused the settings of its cache.
    async fn settle_cache(&self, handoff: &Handoff) -> bool {
        let work = async {
            let mut session = self.open(handoff).await?;
            let asked = self.live.snapshot();
            cache::settle(&asked.cache, &mut session.client, &self.status).await
        };
        let done = timeout(ATTEST_TIME_MAX, work).await.unwrap_or(Err(AttestError::Timeout));
        if let Err(error) = &done {
            tracing::warn!(%error, "cache settings not sent; they are sent again");
        }
        done.is_ok()
    }

    async fn observe_health(&self, handoff: &Handoff) -> Result<(), AttestError> {
        let work = async {
            let mut session = self.open(handoff).await?;
            let reply = session.client.health(HealthRequest {}).await;
            let reply = reply.map_err(|s| AttestError::Session(s.to_string()))?.into_inner();
            enclave_ok(reply.error)?;
            self.metrics.rng_source(&reply.rng_current);
            self.status.update(|status| status.rng_current = Some(reply.rng_current));
            // An enclave of the release before does not count; that is no failure of its health.
            if let Ok(said) = session.client.stats(StatsRequest {}).await {
                self.metrics.enclave.observed(said.into_inner());
            }
            Ok(())
        };
        timeout(ATTEST_TIME_MAX, work).await.unwrap_or(Err(AttestError::Timeout))
    }
}

/// The launcher runs as the user of this process. Anybody in the network namespace may take an
/// abstract socket's name, root too; who listens there is not the launcher for that.
fn same_user(peer: u32, own: u32) -> std::io::Result<()> {
    if peer == own {
        return Ok(());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::PermissionDenied,
        format!("the launcher's socket belongs to uid {peer}, not {own}"),
    ))
}

struct CheckedBoot {
    boot: Boot,
    trusted: bool,
    measurements: MeasurementStatus,
}

/// Every check of a live document. Pure but for the clock.
fn check_document(
    root: &TrustRoot,
    images: &PcrAllowList,
    handoff: &Handoff,
    document: &[u8],
    nonce: &[u8],
) -> Result<CheckedBoot, String> {
    let document = verify_live(document, root, now_ms(), nonce, DOCUMENT_AGE_MS_MAX)
        .map_err(|error| error.to_string())?;
    let Some(image) = images.find(&document.pcrs) else {
        let pcr0 = document.pcr(0).map(const_hex::encode).unwrap_or_default();
        return Err(format!("measurements: the image with PCR0 {pcr0} is not on the list"));
    };
    match document.user_data() {
        Ok(UserData::Live { boot_id }) if boot_id == handoff.boot_id.0 => {}
        Ok(UserData::Live { .. }) => return Err("the document is of another boot".to_owned()),
        _ => return Err("the document is of another kind".to_owned()),
    }
    let measurements = MeasurementStatus {
        pcr0: const_hex::encode(image.pcr0),
        pcr1: const_hex::encode(image.pcr1),
        pcr2: const_hex::encode(image.pcr2),
    };
    let boot = Boot {
        boot_id: handoff.boot_id,
        address: handoff.address.clone(),
        token: handoff.token.clone(),
        pcr0: image.pcr0,
        trusted: *root == TrustRoot::aws(),
    };
    Ok(CheckedBoot { trusted: boot.trusted, boot, measurements })
}

fn enclave_ok(code: i32) -> Result<(), AttestError> {
    match ErrorCode::try_from(code) {
        Ok(ErrorCode::Ok) => Ok(()),
        Ok(code) => Err(AttestError::Enclave(code.as_str_name())),
        Err(_) => Err(AttestError::Enclave("an unknown error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_of_another_user_is_refused() {
        for uid in [0, 1_000, u32::MAX] {
            assert!(same_user(uid, uid).is_ok());
        }
        for (peer, own) in [(0, 1_000), (1_000, 0), (1_000, 1_001)] {
            let error = same_user(peer, own).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            let said = format!("the launcher's socket belongs to uid {peer}, not {own}");
            assert_eq!(error.to_string(), said);
        }
    }
}
