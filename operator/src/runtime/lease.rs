//! Leader election with a Lease. Two operators would not damage each other (names are fixed, pods
//! are created once), but they would argue; so whoever loses the lease ends.
//!
//! A lease is taken when it is free, was released, or when *this* process has seen it unchanged
//! for its whole duration: clocks of different nodes are never compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::names::MANAGER;

/// How long a lease counts without being renewed, in seconds.
const DURATION_S: i32 = 15;
const DURATION: Duration = Duration::from_secs(15);
/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Without a renewal for so long, the process ends: well before another may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between looks at a lease that somebody else holds.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Times that a lease is given back before it is left to run out.
const RELEASE_ATTEMPTS: usize = 3;
/// One request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Leader election of this process.
pub struct Lease {
    api: Api<LeaseObject>,
    identity: String,
}

/// The lease is held.
pub struct Held {
    lease: Lease,
}

/// What was seen of somebody else's lease.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

// === impl Lease ===

impl Lease {
    /// Election in `namespace` under this name.
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned() }
    }

    /// Waits until the lease is ours, or `stop`. A request under way is never cut: the server might
    /// still grant a lease that nobody would then give back.
    pub async fn acquire(self, mut stop: watch::Receiver<bool>) -> Option<Held> {
        let mut seen = None;
        loop {
            match timeout(REQUEST_TIMEOUT, self.try_acquire(&mut seen)).await {
                Ok(Ok(true)) => return Some(Held { lease: self }),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be taken yet"),
                Err(_) => tracing::warn!("the lease cannot be taken yet: no answer"),
            }
            tokio::select! {
                () = sleep(RETRY_EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    async fn try_acquire(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(MANAGER).await? else {
            let lease = LeaseObject {
                metadata: ObjectMeta { name: Some(MANAGER.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        if !is_free(&lease, &self.identity, seen, Instant::now()) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        won(self.api.replace(MANAGER, &PostParams::default(), &lease).await)
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let mut lease = self.api.get(MANAGER).await?;
        if holder(&lease) != Some(&self.identity) {
            return Ok(false);
        }
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        won(self.api.replace(MANAGER, &PostParams::default(), &lease).await)
    }

    /// False if the lease changed meanwhile.
    async fn give_back(&self) -> Result<bool, kube::Error> {
        let mut lease = self.api.get(MANAGER).await?;
        if holder(&lease) != Some(&self.identity) {
            return Ok(true);
        }
        lease.spec.get_or_insert_default().holder_identity = None;
        won(self.api.replace(MANAGER, &PostParams::default(), &lease).await)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_S),
            lease_transitions: Some(transitions.saturating_add(1)),
            acquire_time: now.clone(),
            renew_time: now,
            ..LeaseSpec::default()
        }
    }
}

// === impl Held ===

impl Held {
    /// Renews the lease for as long as that works; then says why it is lost.
    pub async fn keep(&self) -> String {
        let mut renewed = Instant::now();
        loop {
            sleep(RENEW_EVERY).await;
            let error = match timeout(REQUEST_TIMEOUT, self.lease.renew()).await {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => return "somebody else holds it".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if renewed.elapsed() + RENEW_EVERY + REQUEST_TIMEOUT > RENEW_DEADLINE {
                return format!("not renewed for {} s: {error}", renewed.elapsed().as_secs());
            }
            tracing::warn!(error, "the lease is not renewed yet");
        }
    }

    /// Gives the lease back, so that the next process need not wait. Not being able to is no
    /// harm: it runs out.
    pub async fn release(self) {
        for _ in 0..RELEASE_ATTEMPTS {
            match timeout(REQUEST_TIMEOUT, self.lease.give_back()).await {
                Ok(Ok(true)) => return,
                // A renewal that was under way came in between.
                Ok(Ok(false)) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        tracing::warn!("the lease is not given back; it runs out");
    }
}

/// A conflict means that somebody else was faster.
fn won(answer: Result<LeaseObject, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn holder(lease: &LeaseObject) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

fn is_free(lease: &LeaseObject, identity: &str, seen: &mut Option<Seen>, now: Instant) -> bool {
    match holder(lease) {
        None => true,
        Some(holder) if holder == identity => true,
        Some(_) => {
            let version = lease.resource_version();
            match seen {
                Some(before) if before.version == version => {
                    now.duration_since(before.since) >= DURATION
                }
                _ => {
                    *seen = Some(Seen { version, since: now });
                    false
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, version: &str) -> LeaseObject {
        LeaseObject {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_foreign_lease_is_free_only_after_it_stood_still_for_its_duration() {
        let (mut seen, start) = (None, Instant::now());
        let mut free = |version, halves: u32| {
            let now = start + DURATION / 2 * halves;
            is_free(&lease(Some("other"), version), "me", &mut seen, now)
        };
        assert!(!free("1", 0));
        assert!(!free("2", 1), "it was renewed");
        assert!(!free("2", 2));
        assert!(free("2", 3));
    }

    #[test]
    fn a_released_lease_and_our_own_are_free() {
        for holder in [None, Some(""), Some("me")] {
            assert!(is_free(&lease(holder, "1"), "me", &mut None, Instant::now()));
        }
    }

    #[test]
    fn the_holder_ends_before_another_may_take_over() {
        assert!(RENEW_DEADLINE + REQUEST_TIMEOUT < DURATION);
        assert!(RENEW_EVERY * 2 < RENEW_DEADLINE);
        assert_eq!(DURATION.as_secs(), u64::try_from(DURATION_S).unwrap());
    }
}
