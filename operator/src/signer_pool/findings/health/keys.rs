//! KeysUnlocked: every member holds a data encryption key of every keyspace.

use sigil_crds::{ConditionType, EnclaveStatus, KeyspaceStatus};

use super::{View, first_flaw};
use crate::conditions::{Finding, Reason};
use crate::signer_pool::members::Member;

const TYPE: ConditionType = ConditionType::KeysUnlocked;

pub(in super::super) fn keys_unlocked(view: &View<'_>) -> Finding {
    let flaw = |member: &Member<'_>, report: &EnclaveStatus| {
        view.pool.spec.keyspaces.iter().find_map(|wanted| {
            let found = report.keyspaces.iter().find(|one| one.name == wanted.name);
            locked(member.slot, &wanted.name, found, report)
        })
    };
    first_flaw(view, TYPE, flaw).unwrap_or_else(|| {
        let count = view.pool.spec.keyspaces.len();
        Finding::yes(TYPE, Reason::Unlocked, format!("{count} keyspaces on every member"))
    })
}

fn locked(
    slot: i32,
    name: &str,
    found: Option<&KeyspaceStatus>,
    report: &EnclaveStatus,
) -> Option<Finding> {
    let Some(keyspace) = found else {
        let message = format!("member {slot} does not know keyspace {name} yet");
        return Some(Finding::unknown(TYPE, Reason::NotReported, message));
    };
    if keyspace.unlocked {
        return None;
    }
    let (reason, advice) = match keyspace.kms_error.as_deref() {
        Some("denied") => (
            Reason::KmsDeniesMeasurement,
            format!(
                "KMS denies it. Check the credentials of the pods, and that the key policy allows \
                 kms:Decrypt and kms:GenerateDataKey where kms:RecipientAttestation:PCR0 is {}",
                report.measurements.as_ref().map_or("that of the image", |proved| &proved.pcr0)
            ),
        ),
        Some("attestation") => (
            Reason::KmsDeniesMeasurement,
            "the enclave could not attest to KMS, or refused what KMS answered. Check that the key \
             policy asks for attestation (kms:RecipientAttestation), that the image pins the key \
             that is used, and the clock of the node; the log of container serve has the details"
                .to_owned(),
        ),
        Some("enclave") => (
            Reason::UnlockFailed,
            "the enclave or the store failed during the unlock, not KMS. The enclave may be \
             overloaded or gone, or the store may be unreadable or lack the keyspace's data \
             encryption key: see the logs of containers serve and launcher; restore a backup if \
             the store lost it"
                .to_owned(),
        ),
        Some("queue_full" | "expired") => (
            Reason::Locked,
            "too many unlocks wait before this one; it is repeated by itself".to_owned(),
        ),
        Some(class) => (
            Reason::KmsUnavailable,
            format!("KMS does not answer well ({class}): check kms.address and the network"),
        ),
        None => (Reason::Locked, "the unlock is under way".to_owned()),
    };
    Some(Finding::no(TYPE, reason, format!("keyspace {name} of member {slot} is locked: {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reason and message for a keyspace that is locked for this class of failure.
    fn said(class: &str) -> (Reason, String) {
        let keyspace = serde_json::json!({"name": "k", "unlocked": false, "kmsError": class});
        let report = serde_json::json!({"podUid": "uid", "running": true, "attested": true,
            "trusted": true, "storeDurable": true, "ringEpoch": 1, "keyspaces": [keyspace]});
        let report: EnclaveStatus = serde_json::from_value(report).unwrap();
        let finding = locked(0, "k", report.keyspaces.first(), &report).unwrap();
        (finding.reason, finding.message)
    }

    #[test]
    fn only_what_the_network_can_explain_sends_people_to_the_network() {
        for class in ["throttled", "timeout", "kms_error"] {
            let (reason, message) = said(class);
            assert_eq!(reason, Reason::KmsUnavailable, "{class}");
            assert!(message.contains("kms.address"), "{message}");
        }
        let others = [
            ("denied", Reason::KmsDeniesMeasurement),
            ("attestation", Reason::KmsDeniesMeasurement),
            ("enclave", Reason::UnlockFailed),
            ("queue_full", Reason::Locked),
            ("expired", Reason::Locked),
        ];
        for (class, wanted) in others {
            let (reason, message) = said(class);
            assert_eq!(reason, wanted, "{class}");
            assert!(!message.contains("network"), "{message}");
        }
    }
}
