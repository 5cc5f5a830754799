//! Settings of routing: which enclave signs, and how this process knows the others.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::DnsName;
use serde::{Deserialize, Serialize};

use super::{ClientCertificates, Member, Tls};

/// Points of a member of weight 100: the most that keeps a ring of 512 of them whole, and enough for
/// loads within a tenth of the ideal (decision 28).
const VIRTUAL_NODES: u32 = 2_048;
const VIRTUAL_NODES_MAX: u32 = 16_384;
const SLOT_MAX: u16 = 511;
const HOP_TIMEOUT_MS: RangeInclusive<u64> = 10..=60_000;

/// Which enclave signs, and how this process knows the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Routing {
    /// Who is asked first.
    pub policy: Policy,
    /// Points of a member of weight 100 in the ring, 1..=16384; the same on every member.
    pub virtual_nodes: u32,
    /// Slot of this member, 0..=511; with `member`, its allocation says it.
    pub slot: Option<u16>,
    /// A SignerRing in a file, followed while it changes.
    pub membership_file: Option<PathBuf>,
    /// Time after which another member that does not answer is at fault, 10..=60000 ms.
    pub hop_timeout_ms: u64,
    /// Authorities of other members' certificates; with `peer_name` and `listeners.tls`.
    pub peer_ca_file: Option<PathBuf>,
    /// DNS name in the certificate of every member.
    pub peer_name: Option<String>,
    /// Subjects of members, as `dns:NAME`, `uri:NAME` or `cn:NAME`; empty: `dns:` and `peer_name`.
    pub peer_subjects: Vec<String>,
}

/// Who is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Policy {
    /// The node's own enclave; the ring when it does not answer.
    #[default]
    LocalFirst,
    /// The ring's owner of the key, on whichever node it is.
    Owner,
}

// === impl Routing ===

impl Default for Routing {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            virtual_nodes: VIRTUAL_NODES,
            slot: None,
            membership_file: None,
            hop_timeout_ms: 2_000,
            peer_ca_file: None,
            peer_name: None,
            peer_subjects: Vec::new(),
        }
    }
}

impl Routing {
    /// The slot of this member: as it is set, or the number at the end of `POOL-SLOT`, the allocation.
    pub(crate) fn own_slot(&self, member: Option<&Member>) -> Option<u16> {
        self.slot.or_else(|| slot_of(member?))
    }

    /// Whether this process is a member of anything.
    pub(crate) fn is_on(&self, member: Option<&Member>) -> bool {
        self.membership_file.is_some() || member.is_some()
    }

    /// Whether a certificate with this subject is a member's.
    pub(crate) fn is_peer(&self, subject: &str) -> bool {
        if !self.peer_subjects.is_empty() {
            return self.peer_subjects.iter().any(|peer| peer == subject);
        }
        let name = subject.strip_prefix("dns:");
        name.is_some() && name == self.peer_name.as_deref()
    }

    /// Time after which another member is at fault.
    pub(crate) fn hop_time_max(&self) -> Duration {
        Duration::from_millis(self.hop_timeout_ms)
    }

    pub(super) fn validate(
        &self,
        (member, tls): (Option<&Member>, &Tls),
        errors: &mut Vec<String>,
    ) {
        if !(1..=VIRTUAL_NODES_MAX).contains(&self.virtual_nodes) {
            let given = self.virtual_nodes;
            errors.push(format!("routing.virtualNodes: {given} is not in 1..={VIRTUAL_NODES_MAX}"));
        }
        if let Some(slot) = self.slot.filter(|slot| *slot > SLOT_MAX) {
            errors.push(format!("routing.slot: {slot} is not in 0..={SLOT_MAX}"));
        }
        if let (Some(slot), Some(of_member)) = (self.slot, member.and_then(slot_of))
            && slot != of_member
        {
            errors.push(format!(
                "routing.slot: {slot} is not that of member.allocation, {of_member}; leave it out"
            ));
        }
        if self.membership_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            errors.push("routing.membershipFile: must be an absolute path".to_owned());
        }
        if !HOP_TIMEOUT_MS.contains(&self.hop_timeout_ms) {
            let (given, low, high) =
                (self.hop_timeout_ms, HOP_TIMEOUT_MS.start(), HOP_TIMEOUT_MS.end());
            errors.push(format!("routing.hopTimeoutMs: {given} is not in {low}..={high}"));
        }
        self.validate_peers(tls, errors);
        if self.policy == Policy::Owner {
            if self.membership_file.is_none() && member.is_none() {
                errors.push(
                    "routing.policy: Owner needs to know the members; set routing.membershipFile, \
                     or use LocalFirst"
                        .to_owned(),
                );
            } else if self.own_slot(member).is_none() {
                errors.push(
                    "routing.policy: Owner needs to know which member this is; set routing.slot"
                        .to_owned(),
                );
            }
        }
    }
}

impl Routing {
    fn validate_peers(&self, tls: &Tls, errors: &mut Vec<String>) {
        if self.peer_ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            errors.push("routing.peerCaFile: must be an absolute path".to_owned());
        }
        if self.peer_ca_file.is_some() != self.peer_name.is_some() {
            errors.push(
                "routing.peerCaFile: goes with routing.peerName, and it with that".to_owned(),
            );
        }
        if let Some(name) = &self.peer_name
            && DnsName::try_from(name.as_str()).is_err()
        {
            errors.push(format!("routing.peerName: `{name}` is not a DNS name"));
        }
        if self.peer_ca_file.is_some() && tls.client_certificates == ClientCertificates::None {
            errors.push(
                "routing.peerCaFile: members show each other certificates; set listeners.tls with \
                 clientCertificates"
                    .to_owned(),
            );
        }
        for (index, subject) in self.peer_subjects.iter().enumerate() {
            if !["dns:", "uri:", "cn:"].iter().any(|kind| subject.starts_with(kind)) {
                errors.push(format!(
                    "routing.peerSubjects[{index}]: `{subject}` is not dns:NAME, uri:NAME or cn:NAME"
                ));
            }
        }
    }
}

fn slot_of(member: &Member) -> Option<u16> {
    let slot = member.allocation.strip_prefix(&member.pool)?.strip_prefix('-')?;
    slot.parse().ok().filter(|slot| *slot <= SLOT_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    fn with(text: &str) -> Result<Routing, String> {
        let pcr = "11".repeat(48);
        let text = format!(
            "kms: {{region: us-east-1}}\n\
             enclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', pcr2: '{pcr}'}}]}}\n{text}\n"
        );
        load(&text, |_| None).map(|config| config.routing).map_err(|errors| errors.to_string())
    }

    #[test]
    fn settings_are_checked_together_and_named() {
        let member = "member: {namespace: n, pool: demo, allocation: demo-3, node: w}";
        for (text, said) in [
            ("routing: {policy: Nearest}", "routing: "),
            ("routing: {virtualNodes: 0}", "routing.virtualNodes"),
            ("routing: {virtualNodes: 16385}", "routing.virtualNodes"),
            ("routing: {slot: 512}", "routing.slot"),
            ("routing: {membershipFile: ring.yaml}", "routing.membershipFile"),
            ("routing: {hopTimeoutMs: 9}", "routing.hopTimeoutMs"),
            ("routing: {peerCaFile: ca.pem, peerName: a}", "routing.peerCaFile: must be"),
            ("routing: {peerName: a.b}", "goes with"),
            ("routing: {peerName: 'a b', peerCaFile: /ca}", "not a DNS name"),
            ("routing: {peerName: a.b, peerCaFile: /ca}", "clientCertificates"),
            ("routing: {peerSubjects: [a.b]}", "routing.peerSubjects[0]"),
            ("routing: {policy: Owner}", "set routing.membershipFile"),
            ("routing: {policy: Owner, membershipFile: /ring.yaml}", "set routing.slot"),
            (&format!("routing: {{slot: 4}}\n{member}"), "that of member.allocation, 3"),
        ] {
            let errors = with(text).unwrap_err();
            assert!(errors.contains(said), "{text}: {errors}");
        }
        assert_eq!(with("").unwrap(), Routing::default());
        let alone = with("routing: {policy: Owner, membershipFile: /ring.yaml, slot: 7}").unwrap();
        assert_eq!((alone.policy, alone.own_slot(None)), (Policy::Owner, Some(7)));
    }

    #[test]
    fn the_allocation_names_the_slot() {
        let slot = |pool: &str, allocation: &str| {
            let [namespace, node] = ["n", "w"].map(ToOwned::to_owned);
            let (pool, allocation) = (pool.to_owned(), allocation.to_owned());
            Routing::default().own_slot(Some(&Member { namespace, pool, allocation, node }))
        };
        assert_eq!(slot("demo", "demo-0"), Some(0));
        assert_eq!(slot("demo-1", "demo-1-511"), Some(511));
        for (pool, allocation) in [("demo", "demo-512"), ("demo", "other-1"), ("demo", "demo")] {
            assert_eq!(slot(pool, allocation), None);
        }
    }
}
