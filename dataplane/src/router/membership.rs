//! Who signs, as a SignerRing says: read, checked field by field, and never older than what was taken
//! before, whether it comes from a file or from the API server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sigil_crds::{MemberState, SignerRingSpec};
use tokio::sync::watch;

mod address;
mod file;

pub use address::PeerAddress;
pub(crate) use file::follow as follow_file;

use super::ring::MEMBERS_MAX;

/// Bytes of a membership: 512 members of 1 KiB, and half of that for everything else.
pub const MEMBERSHIP_BYTES_MAX: usize = 768 * 1024;

const KIND: &str = "SignerRing";
const API_VERSION: &str = "sigil.dev/v1alpha1";
const SLOT_MAX: i32 = 511;
const POOL_BYTES_MAX: usize = 63;
const NODE_BYTES_MAX: usize = 253;
const MEASUREMENTS_MAX: usize = 8;
const WEIGHT_MAX: i32 = 1_000;
const RAMP_SECONDS_MAX: i32 = 86_400;

/// A checked membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Number of this membership; it only grows. At least 1.
    pub epoch: i64,
    /// Pool that it belongs to.
    pub pool: String,
    /// By slot, ascending; slots are distinct.
    pub members: Vec<Member>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// 0..=511.
    pub slot: u16,
    /// Node that holds it now.
    pub node: String,
    /// Where other members reach it; absent while it serves its own node only.
    pub address: Option<PeerAddress>,
    /// Whether it takes requests.
    pub state: MemberState,
    /// 0..=1000.
    pub weight: u32,
    /// Time over which its weight grows after joining.
    pub ramp: Duration,
}

/// Everything that is wrong with a membership, one line each: field, reason, fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipErrors(pub Vec<String>);

/// What became of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the newest now.
    Newest,
    /// It is the one that there is.
    Same,
    /// There is a newer one.
    Older,
    /// There is another one of the same epoch; the first stays.
    Conflict,
    /// It belongs to another pool.
    OtherPool,
}

/// The newest membership that was taken, whatever its source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memberships {
    newest: Arc<watch::Sender<Option<Arc<Membership>>>>,
    pool: Option<Arc<str>>,
}

/// Reads the newest membership; `None` before the first.
pub type MembershipWatch = watch::Receiver<Option<Arc<Membership>>>;

/// A SignerRing as `kubectl get -o yaml` prints it. What is not the ring's own is not looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    spec: serde_yaml_ng::Value,
}

// === impl Membership ===

impl Membership {
    /// Reads a SignerRing in YAML or JSON.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, MembershipErrors> {
        let one = |error: String| MembershipErrors(vec![error]);
        if text.len() > MEMBERSHIP_BYTES_MAX {
            return Err(one(format!("longer than {MEMBERSHIP_BYTES_MAX} bytes")));
        }
        if has_aliases(text) {
            return Err(one("YAML aliases (`*name`) are not taken; write it out".to_owned()));
        }
        let file: File =
            serde_yaml_ng::from_str(text).map_err(|error| one(format!("not a {KIND}: {error}")))?;
        if file.kind != KIND {
            return Err(one(format!("kind: `{}` is not {KIND}", file.kind)));
        }
        if file.api_version != API_VERSION {
            return Err(one(format!("apiVersion: `{}` is not {API_VERSION}", file.api_version)));
        }
        unknown_fields(&file.spec).map_or(Ok(()), |error| Err(one(error)))?;
        let spec = serde_yaml_ng::from_value::<SignerRingSpec>(file.spec)
            .map_err(|error| one(format!("spec: {error}")))?;
        Self::checked(&spec)
    }

    /// Checks what a SignerRing says, also what the API server checks: a file has no API server.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn checked(spec: &SignerRingSpec) -> Result<Self, MembershipErrors> {
        let mut errors = Vec::new();
        if spec.epoch < 1 {
            errors.push(format!("spec.epoch: {} is not at least 1", spec.epoch));
        }
        if !(1..=POOL_BYTES_MAX).contains(&spec.pool.len()) {
            errors.push(format!("spec.pool: must have 1 to {POOL_BYTES_MAX} bytes"));
        }
        for (name, count, most) in [
            ("measurements", spec.measurements.len(), MEASUREMENTS_MAX),
            ("members", spec.members.len(), MEMBERS_MAX),
        ] {
            if count > most {
                errors.push(format!("spec.{name}: {count} entries, at most {most}"));
            }
        }
        let mut members = Vec::with_capacity(spec.members.len().min(MEMBERS_MAX));
        for (index, member) in spec.members.iter().take(MEMBERS_MAX).enumerate() {
            members.extend(checked_member(spec, index, member, &mut errors));
        }
        members.sort_by_key(|member| member.slot);
        for pair in members.windows(2) {
            if let [one, other] = pair
                && one.slot == other.slot
            {
                errors.push(format!("spec.members: slot {} is there twice", one.slot));
            }
        }
        if errors.is_empty() {
            Ok(Self { epoch: spec.epoch, pool: spec.pool.clone(), members })
        } else {
            Err(MembershipErrors(errors))
        }
    }

    /// The member of this slot.
    pub fn member(&self, slot: u16) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&slot, |member| member.slot).ok()?;
        self.members.get(at)
    }
}

fn checked_member(
    spec: &SignerRingSpec,
    index: usize,
    member: &sigil_crds::RingMember,
    errors: &mut Vec<String>,
) -> Option<Member> {
    let before = errors.len();
    let mut wrong = |field: &str, why: String| {
        errors.push(format!("spec.members[{index}].{field}: {why}"));
    };
    let in_range = |value: i32, most: i32| u32::try_from(value).ok().filter(|_| value <= most);
    let slot = in_range(member.slot, SLOT_MAX);
    let weight = in_range(member.weight, WEIGHT_MAX);
    let ramp = in_range(member.ramp_seconds, RAMP_SECONDS_MAX);
    for (field, value, found, most) in [
        ("slot", member.slot, slot, SLOT_MAX),
        ("weight", member.weight, weight, WEIGHT_MAX),
        ("rampSeconds", member.ramp_seconds, ramp, RAMP_SECONDS_MAX),
    ] {
        if found.is_none() {
            wrong(field, format!("{value} is not in 0..={most}"));
        }
    }
    if member.node.len() > NODE_BYTES_MAX {
        wrong("node", format!("longer than {NODE_BYTES_MAX} bytes"));
    }
    let address = match member.address.as_str() {
        "" => None,
        text => text.parse().map_err(|why| wrong("address", why)).ok(),
    };
    if let Some(measurements) = member.measurements
        && usize::try_from(measurements).map_or(true, |at| at >= spec.measurements.len())
    {
        wrong("measurements", format!("{measurements} is not an index into spec.measurements"));
    }
    if errors.len() > before {
        return None;
    }
    Some(Member {
        slot: u16::try_from(slot?).ok()?,
        node: member.node.clone(),
        address,
        state: member.state,
        weight: weight?,
        ramp: Duration::from_secs(ramp?.into()),
    })
}

/// Whether something may be a YAML alias, with which a short text becomes a long one. `*` is one only at
/// the start of a value; that a quoted text of an annotation begins so costs it a space.
fn has_aliases(text: &str) -> bool {
    text.as_bytes().windows(3).any(|three| match *three {
        [before, b'*', after] => {
            let starts = before.is_ascii_whitespace() || b"[{,:-".contains(&before);
            starts && !after.is_ascii_whitespace()
        }
        _ => false,
    })
}

/// A misspelt `rampSeconds` would be its default, silently.
fn unknown_fields(spec: &serde_yaml_ng::Value) -> Option<String> {
    const SPEC: [&str; 4] = ["pool", "epoch", "measurements", "members"];
    const MEMBER: [&str; 7] =
        ["slot", "node", "address", "state", "weight", "rampSeconds", "measurements"];
    let unknown = |value: &serde_yaml_ng::Value, known: &[&str]| {
        let keys = value.as_mapping()?.keys();
        let found = keys.map(|key| key.as_str().unwrap_or("(not a text)"));
        found.filter(|key| !known.contains(key)).map(ToOwned::to_owned).next()
    };
    let tell = |path: String, known: &[&str]| {
        format!("{path}: unknown field; known here: {}", known.join(", "))
    };
    if let Some(name) = unknown(spec, &SPEC) {
        return Some(tell(format!("spec.{name}"), &SPEC));
    }
    let members = spec.get("members")?.as_sequence()?;
    members.iter().enumerate().find_map(|(index, member)| {
        let name = unknown(member, &MEMBER)?;
        Some(tell(format!("spec.members[{index}].{name}"), &MEMBER))
    })
}

// === impl Memberships ===

impl Memberships {
    /// None taken yet. With `pool`, those of other pools are refused.
    pub fn new(pool: Option<&str>) -> Self {
        Self { newest: Arc::new(watch::Sender::new(None)), pool: pool.map(Into::into) }
    }

    /// Follows what is taken.
    pub fn subscribe(&self) -> MembershipWatch {
        self.newest.subscribe()
    }

    /// Takes `found` if it is newer than what there is; `source` is for the log.
    pub fn offer(&self, found: Membership, source: &str) -> Taken {
        if self.pool.as_deref().is_some_and(|pool| pool != found.pool) {
            let (pool, ours) = (found.pool, self.pool.as_deref());
            tracing::warn!(source, pool, ours, "ring of another pool refused");
            return Taken::OtherPool;
        }
        let mut taken = Taken::Newest;
        self.newest.send_if_modified(|current| {
            if let Some(current) = current {
                taken = current.judge(&found);
            }
            match taken {
                Taken::Newest => {
                    let (epoch, members) = (found.epoch, found.members.len());
                    tracing::info!(source, epoch, members, "ring accepted");
                    *current = Some(Arc::new(found));
                    return true;
                }
                Taken::Older => {
                    let newest = current.as_ref().map(|current| current.epoch);
                    tracing::warn!(source, found = found.epoch, newest, "older ring refused");
                }
                Taken::Conflict => {
                    let epoch = found.epoch;
                    let fix = "a change needs the next epoch";
                    tracing::warn!(source, epoch, fix, "another ring of the same epoch refused");
                }
                Taken::Same | Taken::OtherPool => {}
            }
            false
        });
        taken
    }
}

impl Membership {
    /// What `found` is to this one.
    fn judge(&self, found: &Self) -> Taken {
        match found.epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Greater => Taken::Newest,
            std::cmp::Ordering::Less => Taken::Older,
            std::cmp::Ordering::Equal if found == self => Taken::Same,
            std::cmp::Ordering::Equal => Taken::Conflict,
        }
    }
}

// === impl MembershipErrors ===

impl fmt::Display for MembershipErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for MembershipErrors {}

#[cfg(test)]
pub(crate) mod tests;
