//! What this member is and does, as one snapshot. The control plane writes it into a watch channel;
//! `/readyz`, `/debug` and the Kubernetes part read it.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::store::StoreStatus;

/// One snapshot. It holds no secret and is compared to find out whether something changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, not states of one thing")]
pub struct MemberStatus {
    /// A launcher has handed over an enclave and that boot is alive.
    pub running: bool,
    /// Identity of the boot, 32 hex digits.
    pub boot_id: Option<String>,
    /// Where the enclave listens, as a URI such as `vsock://16:5000`.
    pub address: Option<String>,
    /// The boot's attestation document verified and its measurements are allowed.
    pub attested: bool,
    /// Why it is not attested, one sentence.
    pub attestation_error: Option<String>,
    /// Why it does not count as running although it was handed over, one sentence.
    pub health_error: Option<String>,
    /// The document chains to the AWS root, and not to a development one.
    pub trusted: bool,
    /// Measurements of the document, once attested.
    pub measurements: Option<MeasurementStatus>,
    /// Random generator that the enclave reports: `nsm-hwrng`, `software` or `other`.
    pub rng_current: Option<String>,
    /// The enclave's key cache; absent until the enclave was asked.
    pub cache: Option<CacheStatus>,
    /// By keyspace name.
    pub keyspaces: BTreeMap<String, KeyspaceStatus>,
    /// Epoch of the ring that requests are routed by; 0 without one.
    pub ring_epoch: i64,
    /// The store was opened and its last commit was durable.
    pub store_durable: bool,
    /// TLS of the public listener; absent in cleartext.
    pub tls: Option<TlsStatus>,
    /// What became of the newest settings.
    pub config: ConfigStatus,
    /// What the store says of itself.
    pub store: StoreStatus,
}

/// Settings that were read while running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// How often something was put into force.
    pub reloads: u64,
    /// Why the newest file was refused; none of it holds.
    pub errors: Vec<String>,
    /// Paths that differ from what is in force and hold after a restart.
    pub needs_restart: Vec<String>,
}

/// Certificates of the public listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// SHA-256 of the certificate in use, hex.
    pub certificate_sha256: String,
    /// Why the files as they are now cannot be used, one sentence; the ones before stay in use.
    pub reload_error: Option<String>,
}

/// Hex of the three measurements that name an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeasurementStatus {
    /// The whole image.
    pub pcr0: String,
    /// Kernel and code.
    pub pcr1: String,
    /// Pins.
    pub pcr2: String,
}

/// Settings of the enclave's key cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// What holds, as the enclave reports it, by the names of the configuration.
    pub in_force: BTreeMap<&'static str, u64>,
    /// What the enclave refused; none of the configured settings holds then.
    pub refused: Option<CacheRefusal>,
}

/// The first setting that the enclave refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheRefusal {
    /// Its path in the configuration.
    pub field: String,
    /// What was asked for.
    pub asked: u64,
    /// What bounds it, and where that is set.
    pub bound: &'static str,
}

/// What a keyspace can do on this member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyspaceStatus {
    /// The keyspace's sealing DEK is installed in the running enclave, a test key signed under it, and
    /// it has not expired.
    pub unlocked: bool,
    /// Hard limit of that DEK.
    #[serde(skip)]
    pub(crate) sealing_until: Option<Instant>,
    /// Why the last exchange with KMS failed; empty after one that worked.
    pub kms_error: Option<KmsErrorClass>,
    /// The failure has lasted long enough that a person should look. Retries go on.
    pub needs_person: bool,
    /// When a test key of this keyspace last signed and the signature verified, Unix ms.
    pub test_signature_ms: Option<u64>,
    /// Why a test key did not sign although the DEK is installed; it is tried again.
    pub test_error: Option<String>,
    /// Keys under older DEKs; absent until this boot was asked.
    pub reseal: Option<ResealStatus>,
}

/// How far a keyspace's keys are sealed under the newest DEK, as this member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResealStatus {
    /// Keys that this member moved to the newest DEK since the enclave's boot.
    pub moved: u64,
    /// Keys that the walk has met and not moved, because it failed or their DEK is locked.
    pub left: u64,
    /// Older DEKs that may still have keys to move. 0: every key is where it belongs, or stays.
    pub deks_left: usize,
    /// DEKs of other images, or unproven ones: their keys sign and stay where they are.
    pub deks_kept: usize,
    /// Why the last walk ended early, one sentence.
    pub stopped: Option<String>,
}

/// Closed list, also the label `reason` of `unlock_fail_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KmsErrorClass {
    /// The enclave could not attest to KMS, or refused what KMS answered.
    Attestation,
    /// KMS denies the key, the role or the measurement; or this process has no credentials.
    Denied,
    /// KMS throttles.
    Throttled,
    /// KMS did not answer in time.
    Timeout,
    /// KMS could not be reached or failed.
    KmsError,
    /// The enclave failed or went away, or the store had no answer: nothing that KMS did.
    Enclave,
    /// The unlock queue was full.
    QueueFull,
    /// The job waited too long.
    Expired,
}

impl KmsErrorClass {
    /// The word used in metrics, logs and conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::KmsError => "kms_error",
            Self::Enclave => "enclave",
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
        }
    }
}

impl MemberStatus {
    /// "Answers honestly", never "unlocked" or "has an enclave": an outage of KMS or an enclave must
    /// not take the member out of its Service, where callers would get no hint at all. A store that
    /// cannot write is different: every create would fail. A store that all members share may go away
    /// once it was there: no other member would be better.
    pub fn is_ready(&self) -> bool {
        self.store_durable || self.store.ready
    }
}

/// The writing end; cheap to clone. Readers are told only of real changes.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    sender: std::sync::Arc<watch::Sender<MemberStatus>>,
}

impl StatusWriter {
    /// A status in which every configured keyspace is present and locked.
    pub fn new(keyspaces: &[String]) -> Self {
        let status = MemberStatus {
            keyspaces: keyspaces
                .iter()
                .map(|name| (name.clone(), KeyspaceStatus::default()))
                .collect(),
            ..MemberStatus::default()
        };
        Self { sender: std::sync::Arc::new(watch::Sender::new(status)) }
    }

    /// A reader that sees the newest snapshot.
    pub fn subscribe(&self) -> watch::Receiver<MemberStatus> {
        self.sender.subscribe()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> MemberStatus {
        self.sender.borrow().clone()
    }

    /// Changes the status; readers wake only if it differs afterwards.
    pub fn update(&self, change: impl FnOnce(&mut MemberStatus)) {
        self.sender.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// What the store says of itself.
    pub fn store(&self, store: StoreStatus) {
        self.update(|status| {
            status.store_durable = store.durable;
            status.store = store;
        });
    }

    /// Changes one keyspace; one that is not configured is added.
    pub fn update_keyspace(&self, name: &str, change: impl FnOnce(&mut KeyspaceStatus)) {
        self.update(|status| change(status.keyspaces.entry(name.to_owned()).or_default()));
    }

    /// On `boot_id` a test key of the keyspace signed under the sealing DEK, which ends at `until` unless
    /// it is renewed: a KMS that is away for longer must show.
    pub(crate) fn tested(&self, boot_id: &str, name: &str, until: Instant) {
        let now_ms = crate::app::now_ms();
        self.update_on_boot(boot_id, name, |keyspace| {
            keyspace.unlocked = true;
            keyspace.sealing_until = Some(until);
            keyspace.test_signature_ms = Some(now_ms);
            keyspace.test_error = None;
        });
        let (writer, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            sleep_until(until).await;
            writer.update_keyspace(&name, |keyspace| {
                if keyspace.sealing_until == Some(until) {
                    keyspace.unlocked = false;
                }
            });
        });
    }

    /// On `boot_id` the keyspace's keys are so far.
    pub(crate) fn resealed(&self, boot_id: &str, name: &str, reseal: ResealStatus) {
        self.update_on_boot(boot_id, name, |keyspace| keyspace.reseal = Some(reseal));
    }

    /// On `boot_id` no test key of the keyspace signed.
    pub(crate) fn test_failed(&self, boot_id: &str, name: &str, why: String) {
        self.update_on_boot(boot_id, name, |keyspace| keyspace.test_error = Some(why));
    }

    /// What was found out about a boot that is gone by now changes nothing.
    fn update_on_boot(&self, boot_id: &str, name: &str, change: impl FnOnce(&mut KeyspaceStatus)) {
        self.update(|status| {
            if status.boot_id.as_deref() == Some(boot_id) {
                change(status.keyspaces.entry(name.to_owned()).or_default());
            }
        });
    }

    /// The boot is gone: nothing of it is true any more.
    pub fn enclave_gone(&self) {
        self.update(|status| {
            let keyspaces = std::mem::take(&mut status.keyspaces)
                .into_iter()
                .map(|(name, old)| {
                    let KeyspaceStatus { kms_error, needs_person, .. } = old;
                    (name, KeyspaceStatus { kms_error, needs_person, ..KeyspaceStatus::default() })
                })
                .collect();
            *status = MemberStatus {
                keyspaces,
                ring_epoch: status.ring_epoch,
                store_durable: status.store_durable,
                tls: status.tls.take(),
                config: std::mem::take(&mut status.config),
                store: std::mem::take(&mut status.store),
                ..MemberStatus::default()
            };
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn readers_hear_of_changes_only() {
        let writer = StatusWriter::new(&["default".to_owned()]);
        let mut reader = writer.subscribe();
        reader.mark_unchanged();
        writer.update(|status| status.store_durable = false);
        assert!(!reader.has_changed().unwrap());
        writer.update(|status| status.store_durable = true);
        assert!(reader.has_changed().unwrap());
    }

    /// With an enclave of the boot `b1`.
    fn writer() -> StatusWriter {
        let writer = StatusWriter::new(&["default".to_owned()]);
        writer.update(|status| status.boot_id = Some("b1".to_owned()));
        writer
    }

    #[tokio::test(start_paused = true)]
    async fn a_dek_that_expires_locks_its_keyspace_and_one_that_is_renewed_does_not() {
        let writer = writer();
        let unlocked = || writer.snapshot().keyspaces["default"].unlocked;
        let hour = Duration::from_hours(1);
        writer.tested("b1", "default", Instant::now() + hour);
        tokio::time::advance(hour / 2).await;
        writer.tested("b1", "default", Instant::now() + hour);
        tokio::time::advance(hour / 2).await;
        tokio::task::yield_now().await;
        assert!(unlocked(), "renewed after half its life");
        tokio::time::advance(hour / 2).await;
        tokio::task::yield_now().await;
        assert!(!unlocked());
    }

    #[tokio::test]
    async fn a_test_on_a_boot_that_is_gone_unlocks_nothing() {
        let writer = writer();
        let keyspace = || writer.snapshot().keyspaces["default"].clone();
        let until = Instant::now() + Duration::from_hours(1);
        writer.test_failed("b1", "default", "sign: Full".to_owned());
        assert!(!keyspace().unlocked && keyspace().test_error.is_some());
        writer.enclave_gone();
        writer.tested("b1", "default", until);
        writer.test_failed("b1", "default", "sign: Lost".to_owned());
        assert_eq!(keyspace(), KeyspaceStatus::default());
        writer.update(|status| status.boot_id = Some("b2".to_owned()));
        writer.tested("b1", "default", until);
        assert_eq!(keyspace(), KeyspaceStatus::default());
        writer.test_failed("b2", "default", "sign: Full".to_owned());
        writer.tested("b2", "default", until);
        let keyspace = keyspace();
        assert!(keyspace.unlocked && keyspace.test_signature_ms.is_some());
        assert_eq!(keyspace.test_error, None);
    }

    #[test]
    fn a_shared_store_that_was_there_keeps_the_member_ready_and_one_of_its_own_does_not() {
        let writer = StatusWriter::new(&[]);
        let ready = |store: StoreStatus| {
            writer.store(store);
            writer.snapshot().is_ready()
        };
        let store = StoreStatus::default();
        assert!(!ready(store.clone()));
        assert!(ready(StoreStatus { durable: true, ready: true, ..store.clone() }));
        assert!(ready(StoreStatus { durable: false, ready: true, ..store.clone() }));
        assert!(!writer.snapshot().store_durable, "and says that it cannot store");
        assert!(!ready(store));
    }

    #[test]
    fn a_lost_enclave_locks_keyspaces_and_keeps_the_store() {
        let writer = StatusWriter::new(&["default".to_owned()]);
        writer.update(|status| {
            status.running = true;
            status.attested = true;
            status.store = StoreStatus { ready: true, ..StoreStatus::default() };
            status.store_durable = true;
            status.config.reloads = 1;
        });
        writer.update_keyspace("default", |keyspace| keyspace.unlocked = true);
        writer.enclave_gone();
        let status = writer.snapshot();
        assert!(!status.running && !status.attested && status.store_durable && status.store.ready);
        assert!(!status.keyspaces["default"].unlocked);
        assert_eq!(status.config.reloads, 1);
    }
}
