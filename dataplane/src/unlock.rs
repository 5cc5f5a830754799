//! The cold path: DEKs are unlocked behind callers' backs. A request that meets a locked DEK queues a
//! job and answers at once; workers of the control runtime do the rest, with retries, a breaker for
//! KMS, and no end: no failure of KMS needs a restart.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sigil_enclave_client::KeyId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::audit::AuditLog;
use crate::config::{Config, Unlock};
use crate::metrics::{Callee, Metrics, by_keyspace};
use crate::pool::backoff::random;
use crate::pool::{BootWatch, Pool};
use crate::status::{KmsErrorClass, StatusWriter};
use crate::store::Records;

mod authorize;
mod breaker;
mod credentials;
mod exchange;
mod queue;
mod rate;
mod runner;
mod self_test;
#[cfg(test)]
mod tests;
mod tunnel;
mod worker;

use authorize::Authorizer;
use breaker::{Admission, Breaker};
use exchange::{ExchangeError, Exchanger};
pub(crate) use queue::Target;
use queue::{Job, JobKey, Next, Queue, Reason};
use rate::Rate;
use runner::{Runner, follow_boots, work};
use worker::{Unlocked, Worker};

/// Part of a DEK's life after which it is unlocked again: 55 of 60 minutes at the baseline.
const RENEW_AT: f64 = 55.0 / 60.0;

/// Asks for unlocks. Cheap to clone; used from every thread.
#[derive(Clone)]
pub(crate) struct Unlocker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    metrics: Arc<Metrics>,
    audit: OnceLock<AuditLog>,
    settings: Settings,
}

/// Settings in force; a reload replaces them.
type Settings = Arc<ArcSwap<Unlock>>;

struct State {
    queue: Queue,
    breaker: Breaker,
    rate: Rate,
}

// === impl Unlocker ===

impl Unlocker {
    /// A queue without workers yet.
    pub(crate) fn new(settings: &Unlock, metrics: Arc<Metrics>) -> Self {
        let state = State {
            queue: Queue::new(settings.queue_depth_max, settings.queue_time_max()),
            breaker: Breaker::new(settings.recovery()),
            rate: Rate::new(settings.rate_per_second_max),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Notify::new(),
                metrics,
                audit: OnceLock::new(),
                settings: Arc::new(ArcSwap::from_pointee(settings.clone())),
            }),
        }
    }

    /// Other settings hold from now on, also for what is queued; the number of workers stays.
    pub(crate) fn settle(&self, settings: &Unlock) {
        self.shared.settings.store(Arc::new(settings.clone()));
        {
            let mut state = self.shared.lock();
            state.queue.settle(settings.queue_depth_max, settings.queue_time_max());
            state.breaker.settle(settings.recovery());
            state.rate.set(settings.rate_per_second_max);
        }
        self.shared.wake.notify_waiters();
    }

    /// Where calls of KMS are written down, beside the log; before [`Unlocker::start`].
    pub(crate) fn audit_to(&self, log: AuditLog) {
        // The first stays.
        let _ = self.shared.audit.set(log);
    }

    /// Starts workers on the current runtime; they follow `boots`.
    pub(crate) async fn start(
        &self,
        config: &Config,
        pool: Pool,
        records: Records,
        boots: BootWatch,
        status: StatusWriter,
    ) {
        let mut authorizer = Authorizer::from_environment(config).await;
        authorizer.calls = self.shared.metrics.calls(Callee::Credentials);
        let limits = Arc::clone(&self.shared.settings);
        let mut exchanger = Exchanger::new(pool, authorizer, config.kms.clone(), limits);
        exchanger.audit = self.shared.audit.get().cloned();
        exchanger.calls = self.shared.metrics.calls(Callee::Kms);
        let runner = Arc::new(Runner {
            shared: Arc::clone(&self.shared),
            worker: Worker { exchanger, records, key_arn: config.kms.key_arn.clone() },
            boots: boots.clone(),
            status,
            keyspaces: config.keyspaces.0.clone(),
        });
        tokio::spawn(follow_boots(Arc::clone(&runner), boots));
        for _ in 0..config.unlock.workers {
            tokio::spawn(work(Arc::clone(&runner)));
        }
    }

    /// Queues an unlock for a request that met a locked DEK when it asked the enclave at `asked`, or
    /// joins the one that is queued. Gives its id; `None` if the queue is full.
    pub(crate) fn demand(
        &self,
        keyspace: &str,
        target: Target,
        key_id: Option<KeyId>,
        asked: Instant,
    ) -> Option<Arc<str>> {
        self.shared.metrics.unlock_required.get_or_create(&by_keyspace(keyspace)).inc();
        let key = JobKey { keyspace: keyspace.into(), target };
        let queued = self.shared.request(key, Reason::Demand, key_id, asked);
        if queued.is_none() {
            self.shared.metrics.unlock_failed(keyspace, KmsErrorClass::QueueFull);
        }
        queued
    }

    /// A hint for the caller, uniform between the configured bounds, ms.
    pub(crate) fn retry_hint_ms(&self) -> u32 {
        let settings = self.shared.settings.load();
        let width = settings.retry_after_max_ms.saturating_sub(settings.retry_after_min_ms) + 1;
        #[allow(clippy::cast_precision_loss, reason = "at most 60,000")]
        let part = Duration::from_millis(width).mul_f64(random() * 0.999_999).as_millis();
        let hint = settings.retry_after_min_ms + u64::try_from(part).unwrap_or(0);
        u32::try_from(hint).unwrap_or(u32::MAX)
    }

    /// Lets everything that backs off run now.
    pub(crate) fn retry_now(&self) {
        {
            let mut state = self.shared.lock();
            state.breaker.reset();
            state.queue.retry_all(Instant::now());
        }
        self.shared.wake.notify_waiters();
    }

    /// What `/debug/unlock` shows: at most 100 jobs.
    pub(crate) fn debug(&self) -> serde_json::Value {
        const JOBS_MAX: usize = 100;
        let settings = self.shared.settings.load();
        let state = self.shared.lock();
        let now = Instant::now();
        let jobs: Vec<_> = state
            .queue
            .inspect(JOBS_MAX)
            .into_iter()
            .map(|(job, place)| {
                serde_json::json!({
                    "unlockRequestId": &*job.id,
                    "keyspace": &*job.key.keyspace,
                    "dekId": match job.key.target {
                        Target::Sealing => None,
                        Target::Dek(id) => Some(const_hex::encode(id)),
                    },
                    "keyId": job.key_id.map(|id| id.to_string()),
                    "place": place,
                    "ageMs": u64::try_from((now - job.queued_at).as_millis()).unwrap_or(u64::MAX),
                    "roundsFailed": job.rounds_failed,
                    "lastError": job.last_error.map(KmsErrorClass::as_str),
                })
            })
            .collect();
        serde_json::json!({
            "depth": state.queue.depth(),
            "depthMax": settings.queue_depth_max,
            "workers": settings.workers,
            "ratePerSecondMax": settings.rate_per_second_max,
            "breaker": state.breaker.name(),
            "jobs": jobs,
        })
    }
}

// === impl Shared ===

impl Shared {
    /// Held for a few instructions, never over an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(
        &self,
        key: JobKey,
        reason: Reason,
        key_id: Option<KeyId>,
        asked: Instant,
    ) -> Option<Arc<str>> {
        let queued = {
            let mut state = self.lock();
            let result = state.queue.request(key, &new_id(), reason, key_id, asked);
            self.show(&state);
            result
        };
        self.wake.notify_waiters();
        queued.ok()
    }

    /// The next job that may run now, or when to look again.
    fn take(&self) -> Next {
        let now = Instant::now();
        let mut state = self.lock();
        match state.breaker.admit(now) {
            Admission::Until(until) => return Next::Idle(Some(until)),
            Admission::Waiting => return Next::Idle(None),
            Admission::Admitted => {}
        }
        if let Err(until) = state.rate.check(now) {
            state.breaker.undecided(now);
            return Next::Idle(Some(until));
        }
        let next = state.queue.take(now, &mut |job| {
            self.metrics.unlock_failed(&job.key.keyspace, KmsErrorClass::Expired);
            tracing::warn!(unlock_request_id = &*job.id, "unlock expired in the queue");
        });
        match next {
            Next::Idle(_) => state.breaker.undecided(now),
            Next::Run(_) => state.rate.spend(now),
        }
        self.show(&state);
        next
    }

    /// A job ended as part of another one. It asked KMS nothing.
    fn joined(&self) {
        {
            let mut state = self.lock();
            state.breaker.undecided(Instant::now());
            self.show(&state);
        }
        self.wake.notify_waiters();
    }

    fn show(&self, state: &State) {
        let depth = i64::try_from(state.queue.depth()).unwrap_or(i64::MAX);
        self.metrics.unlock_queue_depth.set(depth);
        let labels = vec![("upstream", "kms".to_owned())];
        self.metrics.breaker_state.get_or_create(&labels).set(state.breaker.gauge());
    }

    /// Reports a job's end to breaker and queue; gives the rounds that failed.
    fn finish(&self, job: &Job, result: &Result<Unlocked, ExchangeError>) -> u32 {
        let now = Instant::now();
        let rounds = {
            let mut state = self.lock();
            let rounds = match result {
                Ok(unlocked) => {
                    state.breaker.answered();
                    let life = Duration::from_millis(unlocked.valid_for_ms);
                    state.queue.done(job, now, life.mul_f64(RENEW_AT), unlocked.sealing);
                    0
                }
                Err(error) => {
                    match error.class {
                        _ if error.is_about_kms() => state.breaker.failed(now),
                        KmsErrorClass::Enclave => state.breaker.undecided(now),
                        _ => state.breaker.answered(),
                    }
                    state.queue.failed(job, error.class, now, self.settings.load().recovery())
                }
            };
            self.show(&state);
            rounds
        };
        self.wake.notify_waiters();
        rounds
    }
}

/// `u-` and 16 hex digits.
fn new_id() -> String {
    let mut bytes = [0_u8; 8];
    // An id that repeats would confuse logs, and nothing else.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    format!("u-{}", const_hex::encode(bytes))
}
