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
            "the enclave refused what KMS answered, or could not attest to it".to_owned(),
        ),
        Some(class) => (
            Reason::KmsUnavailable,
            format!("KMS does not answer well ({class}): check kms.address and the network"),
        ),
        None => (Reason::Locked, "the unlock is under way".to_owned()),
    };
    Some(Finding::no(TYPE, reason, format!("keyspace {name} of member {slot} is locked: {advice}")))
}
