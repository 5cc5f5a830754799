//! Reports `status.enclave` of the member's EnclaveAllocation: only when something but time
//! changed, and not more often than every few seconds, however fast things change.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use sigil_crds::{EnclaveAllocation, EnclaveStatus, KeyspaceStatus, Measurement};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::Member;
use crate::status::{KmsErrorClass, MeasurementStatus, MemberStatus};

/// Field manager of this part of the status; the operator owns the conditions.
const MANAGER: &str = "sigil-dataplane";
/// Between two reports: 512 members make a hundred writes a second at most.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Changes come in bursts (attested, then unlocked, then a test signature).
const SETTLE: Duration = Duration::from_millis(200);
/// A report that somebody wiped, or an allocation that was made anew, is noticed within this time.
const CHECK_EVERY: Duration = Duration::from_mins(1);
/// One request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest message, in characters; the CRD allows 1024.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Writes the reports of one pod.
pub(super) struct Reporter {
    api: Api<EnclaveAllocation>,
    allocation: String,
    pod_uid: String,
}

impl Reporter {
    pub(super) fn new(client: Client, member: &Member, pod_uid: String) -> Self {
        Self {
            api: Api::namespaced(client, &member.namespace),
            allocation: member.allocation.clone(),
            pod_uid,
        }
    }

    /// Reports for as long as there is something to report on.
    pub(super) async fn run(self, mut status: watch::Receiver<MemberStatus>) {
        let mut written: Option<EnclaveStatus> = None;
        let mut failures = 0_u32;
        loop {
            let report = enclave_status(&status.borrow_and_update(), &self.pod_uid);
            if written.as_ref().is_none_or(|old| !old.says_the_same(&report)) {
                match self.write(&report).await {
                    Ok(()) => {
                        written = Some(report);
                        failures = 0;
                    }
                    Err(error) => {
                        tracing::warn!(error, "report not written; it is repeated");
                        failures += 1;
                        sleep(backoff(failures)).await;
                        continue;
                    }
                }
            }
            let earliest = Instant::now() + REPORT_EVERY;
            let changed = timeout(CHECK_EVERY, status.changed()).await;
            match changed {
                Ok(Ok(())) => sleep_until(earliest.max(Instant::now() + SETTLE)).await,
                Ok(Err(_)) => return,
                Err(_) => {
                    if self.was_wiped(written.as_ref()).await {
                        written = None;
                    }
                }
            }
        }
    }

    async fn write(&self, report: &EnclaveStatus) -> Result<(), String> {
        let patch = json!({
            "apiVersion": EnclaveAllocation::api_version(&()),
            "kind": EnclaveAllocation::kind(&()),
            "metadata": {"name": self.allocation},
            "status": {"enclave": report},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(patch);
        let request = self.api.patch_status(&self.allocation, &parameters, &patch);
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err("no answer from the API server".to_owned()),
        }
    }

    /// Whether what is stored is not what was written. Not being able to ask is no reason to write.
    async fn was_wiped(&self, written: Option<&EnclaveStatus>) -> bool {
        let Ok(Ok(found)) = timeout(REQUEST_TIMEOUT, self.api.get(&self.allocation)).await else {
            return false;
        };
        let stored = found.status.and_then(|status| status.enclave);
        match (stored, written) {
            (Some(stored), Some(written)) => !stored.says_the_same(written),
            _ => true,
        }
    }
}

fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.clamp(1, 6).saturating_sub(1)).min(BACKOFF_MAX)
}

/// The snapshot in the words of the CRD.
fn enclave_status(status: &MemberStatus, pod_uid: &str) -> EnclaveStatus {
    let keyspace = |(name, one): (&String, &crate::status::KeyspaceStatus)| KeyspaceStatus {
        name: name.clone(),
        unlocked: one.unlocked,
        kms_error: one.kms_error.map(KmsErrorClass::as_str).map(str::to_owned),
        test_signature_time: one.test_signature_ms.and_then(time),
    };
    let (reason, message) = match (&status.health_error, &status.attestation_error) {
        (Some(why), _) => (Some("EnclaveNotAnswering"), Some(shortened(why))),
        (None, Some(why)) => (Some("AttestationFailed"), Some(shortened(why))),
        (None, None) => (None, None),
    };
    EnclaveStatus {
        pod_uid: pod_uid.to_owned(),
        running: status.running,
        boot_id: status.boot_id.clone(),
        attested: status.attested,
        trusted: status.trusted,
        measurements: status.measurements.as_ref().map(measurement),
        address: status.address.clone(),
        rng: status.rng_current.clone(),
        store_durable: status.store_durable,
        ring_epoch: status.ring_epoch,
        keyspaces: status.keyspaces.iter().map(keyspace).collect(),
        reason: reason.map(str::to_owned),
        message,
    }
}

/// The enclave has the architecture of its parent.
fn measurement(proved: &MeasurementStatus) -> Measurement {
    Measurement {
        arch: std::env::consts::ARCH.to_owned(),
        pcr0: proved.pcr0.clone(),
        pcr1: proved.pcr1.clone(),
        pcr2: proved.pcr2.clone(),
    }
}

/// Whole seconds, as the API server's other times.
fn time(unix_ms: u64) -> Option<Time> {
    let seconds = i64::try_from(unix_ms / 1000).ok()?;
    Timestamp::from_second(seconds).ok().map(Time)
}

fn shortened(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_snapshot_is_told_in_the_words_of_the_crd() {
        let mut status = MemberStatus {
            running: true,
            ring_epoch: 4,
            attestation_error: Some("é".repeat(2000)),
            ..MemberStatus::default()
        };
        let locked = crate::status::KeyspaceStatus {
            kms_error: Some(KmsErrorClass::Denied),
            test_signature_ms: Some(1_500),
            ..crate::status::KeyspaceStatus::default()
        };
        status.keyspaces.insert("default".to_owned(), locked);
        let report = enclave_status(&status, "uid");
        assert_eq!((report.pod_uid.as_str(), report.ring_epoch), ("uid", 4));
        assert!(report.running && !report.attested);
        assert!(report.message.unwrap().chars().count() <= 1024);
        assert_eq!(report.keyspaces[0].kms_error.as_deref(), Some("denied"));
        let time = report.keyspaces[0].test_signature_time.as_ref().unwrap();
        assert_eq!(time.0.as_second(), 1);
    }

    #[test]
    fn an_enclave_that_does_not_answer_is_told_with_its_reason() {
        let status =
            MemberStatus { health_error: Some("no answer".to_owned()), ..MemberStatus::default() };
        let report = enclave_status(&status, "uid");
        assert_eq!(report.reason.as_deref(), Some("EnclaveNotAnswering"));
        assert_eq!(report.message.as_deref(), Some("no answer"));
    }

    #[test]
    fn the_time_of_a_test_signature_is_no_news() {
        let with = |ms, unlocked| {
            let mut status = MemberStatus::default();
            let keyspace = crate::status::KeyspaceStatus {
                unlocked,
                test_signature_ms: Some(ms),
                ..crate::status::KeyspaceStatus::default()
            };
            status.keyspaces.insert("default".to_owned(), keyspace);
            enclave_status(&status, "uid")
        };
        assert!(with(1_000, true).says_the_same(&with(9_000, true)));
        assert!(!with(1_000, true).says_the_same(&with(1_000, false)));
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        assert_eq!(backoff(1), Duration::from_secs(1));
        assert_eq!(backoff(4), Duration::from_secs(8));
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    /// What the operator renders is what this process reads.
    #[test]
    fn the_settings_that_the_operator_renders_are_valid() {
        let text = include_str!("../../../operator/tests/golden/dataplane.yaml");
        let config = config::load(text, |_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let member = config.member.unwrap();
        assert_eq!((member.pool.as_str(), member.allocation.as_str()), ("demo", "demo-0"));
    }
}
