//! A member as the pass sees it: allocation, pod, claim and report side by side. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use sigil_crds::{EnclaveAllocation, EnclaveStatus, Launcher, MemberState, RingMember, SignerPool};

use super::observe::Observed;
use super::validate::{ValidPool, desired_replicas};
use crate::names::{Names, POOL_LABEL, TEMPLATE_HASH, slot_of};

/// Source of randomness of an enclave with the NSM.
pub const NSM_SOURCE: &str = "nsm-hwrng";

/// Longest end of a container's last words that a condition shows, in characters: an error of
/// several lines, and all of the condition fits into an event, which takes 1024.
const LAST_WORDS_CHARS_MAX: usize = 600;

/// One slot that is wanted, or that still holds something.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its slot.
    pub slot: i32,
    /// The pool wants it.
    pub wanted: bool,
    /// What binds it to a node.
    pub allocation: Option<&'a EnclaveAllocation>,
    /// Its pod.
    pub pod: Option<&'a Pod>,
    /// The claim of its store.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// What the dataplane of this very pod reported last.
    pub report: Option<&'a EnclaveStatus>,
    /// Its entry in the newest ring.
    pub in_ring: Option<&'a RingMember>,
}

/// Every slot that is wanted or still holds something, by slot.
pub fn members<'a>(pool: &SignerPool, observed: &'a Observed) -> Vec<Member<'a>> {
    let desired = desired_replicas(pool);
    let held = observed.allocations.iter().map(|allocation| allocation.spec.slot);
    let running = observed.pods.iter().filter_map(|pod| slot_of(pod.labels()));
    let mut slots: Vec<_> = (0..desired).chain(held).chain(running).collect();
    slots.sort_unstable();
    slots.dedup();
    slots.into_iter().map(|slot| member(pool, observed, slot, slot < desired)).collect()
}

fn member<'a>(pool: &SignerPool, observed: &'a Observed, slot: i32, wanted: bool) -> Member<'a> {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let name = names.member(slot);
    let allocation = observed.allocations.iter().find(|found| found.spec.slot == slot);
    let pod = observed.pods.iter().find(|found| found.name_any() == name);
    let claim_name = names.claim(slot);
    let claim = observed.claims.iter().find(|found| found.name_any() == claim_name);
    let report = allocation
        .and_then(|allocation| allocation.status.as_ref()?.enclave.as_ref())
        .filter(|report| pod.and_then(ResourceExt::uid).is_some_and(|uid| uid == report.pod_uid));
    let ring = observed.ring.as_ref();
    let in_ring = ring.and_then(|ring| ring.spec.members.iter().find(|entry| entry.slot == slot));
    Member { slot, wanted, allocation, pod, claim, report, in_ring }
}

// === impl Member ===

impl Member<'_> {
    /// The pod is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// The pod has ended for good: evicted, or refused by the kubelet.
    pub fn has_failed(&self) -> bool {
        let phase = self.pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Failed" | "Succeeded"))
    }

    /// The pod was made from this template.
    pub fn is_current(&self, valid: &ValidPool) -> bool {
        self.pod.and_then(|pod| pod.annotations().get(TEMPLATE_HASH)) == Some(&valid.template_hash)
    }

    /// The pod runs on another node than the one that the member is bound to now.
    pub fn is_elsewhere(&self) -> bool {
        let node = self.pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref());
        let bound = self.allocation.map(|allocation| &allocation.spec.node);
        node.is_some() && bound.is_some() && node != bound
    }

    /// The kubelet says that all containers answer.
    pub fn pod_is_ready(&self) -> bool {
        pod_condition(self.pod, "Ready").is_some_and(|(status, _)| status == "True")
    }

    /// The source of randomness is what this launcher must give.
    pub fn rng_is_expected(&self, launcher: Launcher) -> bool {
        let source = self.report.and_then(|report| report.rng.as_deref());
        match launcher {
            Launcher::Process => source.is_some(),
            Launcher::Nitro | Launcher::Qemu => source == Some(NSM_SOURCE),
        }
    }

    /// It can take requests: its pod is ready, its enclave proved itself, can open every key, and
    /// its store is durable.
    pub fn is_healthy(&self, pool: &SignerPool) -> bool {
        let unlocked = |report: &EnclaveStatus| {
            pool.spec.keyspaces.iter().all(|wanted| {
                report.keyspaces.iter().any(|one| one.name == wanted.name && one.unlocked)
            })
        };
        !self.is_terminating()
            && self.pod_is_ready()
            && self.rng_is_expected(pool.spec.enclave.launcher())
            && self.report.is_some_and(|report| {
                report.running && report.attested && report.store_durable && unlocked(report)
            })
    }

    /// The ring holds it as one that takes requests.
    pub fn is_active(&self) -> bool {
        self.in_ring.is_some_and(|entry| entry.state == MemberState::Active)
    }

    /// Its dataplane serves the ring of `epoch`, or a newer one.
    pub fn has_acknowledged(&self, epoch: i64) -> bool {
        self.report.is_some_and(|report| report.ring_epoch >= epoch)
    }

    /// A claim of its name exists that another owner made.
    pub fn claim_is_foreign(&self, pool: &SignerPool) -> bool {
        self.claim.is_some_and(|claim| claim.labels().get(POOL_LABEL) != Some(&pool.name_any()))
    }

    /// Why a container of the pod does not run, in the kubelet's words.
    pub fn waiting_container(&self) -> Option<String> {
        let status = self.pod?.status.as_ref()?;
        let both = [&status.init_container_statuses, &status.container_statuses];
        both.into_iter().flatten().flatten().find_map(waiting)
    }

    /// Why the scheduler does not accept the pod, in its words.
    pub fn unschedulable(&self) -> Option<String> {
        let (status, message) = pod_condition(self.pod, "PodScheduled")?;
        (status == "False").then_some(message)
    }
}

/// Status and message of a pod's condition.
fn pod_condition(pod: Option<&Pod>, type_: &str) -> Option<(String, String)> {
    let conditions = pod?.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == type_)?;
    Some((found.status.clone(), found.message.clone().unwrap_or_default()))
}

/// States of a container that pass by themselves are no reason.
fn waiting(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = waiting.message.as_deref().unwrap_or("no message");
    let why = last_words(container).map_or_else(String::new, |words| format!("; {words}"));
    Some(format!("container {}: {reason}: {message}{why}", container.name))
}

/// How the container ended the last time. Of its words the end is kept: programs say last why they
/// stop.
fn last_words(container: &ContainerStatus) -> Option<String> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let message = ended.message.as_deref().unwrap_or_default();
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let surplus = line.chars().count().saturating_sub(LAST_WORDS_CHARS_MAX);
    let kept: String = line.chars().skip(surplus).collect();
    let (cut, code) = (if surplus > 0 { "…" } else { "" }, ended.exit_code);
    Some(if kept.is_empty() {
        format!("it ended with code {code} and said nothing")
    } else {
        format!("it ended with code {code} and said last: {cut}{kept}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn said(words: &str) -> String {
        let container: ContainerStatus = from_value(json!({
            "name": "serve", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"exitCode": 1, "message": words}},
        }))
        .unwrap();
        waiting(&container).unwrap()
    }

    #[test]
    fn a_container_that_ends_again_and_again_is_shown_with_its_last_words() {
        let start = "container serve: CrashLoopBackOff: back-off; it ended with code 1 and said";
        assert_eq!(
            said("a\n  store.path: in use\n"),
            format!("{start} last: a store.path: in use")
        );
        assert_eq!(said(""), format!("{start} nothing"));
    }

    #[test]
    fn last_words_are_bounded_and_their_end_is_kept() {
        let long = said(&format!("{} the reason", "é".repeat(4000)));
        assert!(long.ends_with("é the reason"), "{long}");
        assert!(long.chars().count() < 1024 - 200, "{}", long.chars().count());
    }
}
