//! Conditions with typed reasons. A finding has no time; [`stamp`] adds it.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use sigil_crds::{Condition, ConditionStatus, ConditionType};

/// Longest message of a condition, in bytes; the CRD allows 2048 characters.
const MESSAGE_BYTES_MAX: usize = 2000;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition has its status: a closed list that alerts and scripts can match.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What it means, one sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+),)+
                }
            }

            /// The word that is stored, printed and used as a metric label.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    // Before anything is made.
    /// Nobody named the measurements of the enclave image.
    MeasurementsUnknown,
    /// The chart's measurements cannot be read.
    MeasurementsUnreadable,
    /// The measurements are zeros, which every debug enclave has.
    DebugMeasurements,
    /// The image pins other KMS keys than the pool asks for.
    PinsMismatch,
    /// The image is a development image and the pool is for production.
    InsecureImage,
    /// Neither the pool nor the image's measurements name the region of KMS.
    KmsRegionUnknown,
    /// This version runs no such launcher.
    LauncherUnsupported,
    /// More members than the store supports.
    ReplicasUnsupported,
    // Placement.
    /// No node has the labels of `nodes.selector`.
    NoMatchingNode,
    /// Nodes match, but none has enough allocatable CPU or memory.
    NodeTooSmall,
    /// Nodes match, but none is ready and schedulable.
    NodeNotReady,
    /// Nodes match, but their taints are not tolerated.
    NodeTainted,
    /// The volume of the store cannot be reached from a matching node.
    VolumeElsewhere,
    /// The node that a member is bound to is gone.
    NodeGone,
    /// Every member has a node with all that it needs.
    NodesReady,
    /// The scheduler or the kubelet does not accept the pod.
    PodUnschedulable,
    /// Something added a container, so the pod is not Guaranteed.
    QoSNotGuaranteed,
    // Members.
    /// No member is wanted.
    ScaledToZero,
    /// The member has no pod yet.
    NoPod,
    /// A container of the pod does not start.
    ContainerNotStarting,
    /// The dataplane of the pod has not reported yet.
    NotReported,
    /// The enclave of a member does not run, or is not claimed yet.
    EnclaveNotRunning,
    /// The enclave did not prove the expected measurements.
    AttestationFailed,
    /// Every enclave proved its measurements.
    Attested,
    // Ring.
    /// Members are being made ready.
    MembersJoining,
    /// Members finish what they have.
    MembersDraining,
    /// A dataplane does not serve the newest ring yet.
    Unacknowledged,
    /// Every dataplane serves the newest ring.
    Acknowledged,
    // RNG, keys, store.
    /// Every enclave draws from the NSM.
    NsmHwrng,
    /// The enclave is a development one and draws from its kernel.
    DevelopmentSource,
    /// The source of randomness is not the expected one.
    UnexpectedSource,
    /// Every keyspace is unlocked.
    Unlocked,
    /// A keyspace is not unlocked yet.
    Locked,
    /// KMS denies: measurements, key policy or credentials.
    KmsDeniesMeasurement,
    /// KMS does not answer, or not well.
    KmsUnavailable,
    /// The enclave or the store failed while a keyspace was being unlocked.
    UnlockFailed,
    /// The store is on a bound volume and answers.
    Durable,
    /// The claim of the store is not bound.
    ClaimPending,
    /// The volume of the store is lost.
    ClaimLost,
    /// A claim of that name exists and does not belong to this pool.
    ClaimNotOurs,
    /// The dataplane cannot use its store.
    StoreFailed,
    // Trust.
    /// Launcher, root and image are those of production.
    Production,
    /// The launcher protects nothing.
    DevelopmentLauncher,
    /// Documents do not chain to AWS's root.
    UntrustedRoot,
    /// Not attested, so nothing is known.
    NotAttested,
    // The whole.
    /// All wanted members are active, with the wanted settings.
    AllMembersActive,
    /// Fewer members than the floor are active.
    TooFewActive,
    /// At least the floor of members is active.
    FloorActive,
    /// A pod of the member is not ready.
    PodNotReady,
    /// Members are being made.
    Creating,
    /// Members are being replaced after a change of the spec.
    Replacing,
    /// The pool is being deleted.
    Deleting,
    /// The pool is as the spec says.
    UpToDate,
    /// An object of a name that the pool needs exists and was not made by this pool.
    ObjectNotOurs,
    /// The API server refused or did not answer.
    ApplyFailed,
    /// Nothing keeps the pool from getting where it should.
    Progressing,
}

/// A condition without generation and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is observed.
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, for a person, and what to do.
    pub message: String,
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Reason {
    /// It passes by itself as a member comes, goes, or is made anew: nobody needs to be warned.
    pub fn passes(self) -> bool {
        matches!(
            self,
            Self::NoPod
                | Self::NotReported
                | Self::EnclaveNotRunning
                | Self::MembersJoining
                | Self::MembersDraining
                | Self::Unacknowledged
                | Self::Locked
                | Self::ClaimPending
                | Self::TooFewActive
                | Self::PodNotReady
                | Self::Creating
                | Self::Replacing
                | Self::Deleting
        )
    }
}

// === impl Finding ===

impl Finding {
    /// It holds.
    pub fn yes(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { type_, status: ConditionStatus::True, reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { type_, status: ConditionStatus::False, reason, message: message.into() }
    }

    /// It cannot be told.
    pub fn unknown(type_: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { type_, status: ConditionStatus::Unknown, reason, message: message.into() }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { type_, status, reason, message } = self;
        write!(f, "{type_}={} {reason}: {message}", status.as_str())
    }
}

/// Turns findings into conditions: `lastTransitionTime` moves only when the status does.
pub fn stamp(
    findings: &[Finding],
    previous: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let stamp_one = |finding: &Finding| {
        let unchanged = previous
            .iter()
            .find(|old| old.type_ == finding.type_ && old.status == finding.status)
            .map(|old| old.last_transition_time.clone());
        Condition {
            type_: finding.type_,
            status: finding.status,
            reason: finding.reason.as_str().to_owned(),
            message: shortened(&finding.message),
            observed_generation: generation,
            last_transition_time: unchanged.unwrap_or(Time(whole_seconds(now))),
        }
    };
    findings.iter().map(stamp_one).collect()
}

/// Whether both lists say the same, whatever the times.
pub fn say_the_same(one: &[Condition], other: &[Condition]) -> bool {
    one.len() == other.len()
        && one.iter().all(|a| other.iter().any(|b| a.type_ == b.type_ && a.says_the_same(b)))
}

/// The API server keeps whole seconds; what is written must be equal to what is read back.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_BYTES_MAX;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let ready = ConditionType::Ready;
        let first = stamp(&[Finding::no(ready, Reason::NoPod, "a")], &[], 1, at(10));
        let second = stamp(&[Finding::no(ready, Reason::NotReported, "b")], &first, 2, at(20));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].observed_generation, 2);
        let third = stamp(&[Finding::yes(ready, Reason::UpToDate, "")], &second, 2, at(30));
        assert_eq!(third[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn equality_ignores_time_and_order() {
        let findings = [
            Finding::no(ConditionType::Ready, Reason::NoPod, "a"),
            Finding::yes(ConditionType::Trusted, Reason::Production, ""),
        ];
        let one = stamp(&findings, &[], 1, at(10));
        let mut other = stamp(&findings, &[], 1, at(20));
        other.reverse();
        assert!(say_the_same(&one, &other));
        other[0].message = "changed".into();
        assert!(!say_the_same(&one, &other));
    }

    #[test]
    fn reasons_are_distinct_words() {
        let words: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|word| word.chars().all(char::is_alphanumeric)));
    }

    /// `docs/conditions.md` lists every reason. `SIGIL_UPDATE_GOLDEN=1` writes it.
    #[test]
    fn the_documentation_lists_every_reason() {
        let mut text = String::from(include_str!("conditions/head.md"));
        for reason in Reason::ALL {
            let passes = if reason.passes() { "yes" } else { "" };
            let meaning = reason.meaning().trim();
            writeln!(text, "| `{reason}` | {meaning} | {passes} |").unwrap();
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conditions.md");
        if std::env::var_os("SIGIL_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "docs/conditions.md");
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let long = "é".repeat(MESSAGE_BYTES_MAX);
        assert!(shortened(&long).len() <= 2048);
    }
}
