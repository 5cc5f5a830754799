//! Runs the jobs of the queue: attempts, report, what follows from a success.

use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_protocol::handshake::BootId;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::exchange::ExchangeError;
use super::queue::{BACKGROUND_JOBS_MAX, Claim, Job, JobKey, Next, Reason, Target};
use super::self_test::SelfTest;
use super::worker::{Unlocked, Worker, dek_key};
use crate::metrics::by_keyspace;
use crate::pool::backoff::{Backoff, random};
use crate::pool::{Boot, BootWatch};
use crate::status::StatusWriter;

/// DEKs of a keyspace read at once from the store.
const DEK_PAGE_ROWS: usize = 64;
/// Rounds of failed attempts after which a person should look (row U3).
const ROUNDS_UNTIL_PERSON: u32 = 3;

/// Runs jobs.
pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Worker,
    pub(super) boots: BootWatch,
    pub(super) status: StatusWriter,
    pub(super) keyspaces: Vec<String>,
}

// === impl Runner ===

impl Runner {
    fn boot(&self, boot_id: BootId) -> Option<Arc<Boot>> {
        self.boots.borrow().clone().filter(|boot| boot.boot_id == boot_id)
    }

    /// One job, with its attempts.
    async fn run(&self, job: &Job) {
        let Some(boot) = self.boot(job.boot_id) else {
            self.shared.lock().breaker.undecided(Instant::now());
            return;
        };
        let settings = self.shared.settings.load_full();
        let mut backoff = Backoff::new(
            Duration::from_millis(settings.backoff_min_ms),
            Duration::from_millis(settings.backoff_max_ms),
        );
        let mut attempt = 1;
        let result = loop {
            let result = match self.attempt(job, &boot).await {
                Ok(Some(unlocked)) => Ok(unlocked),
                Ok(None) => return self.shared.joined(),
                Err(error) => Err(error),
            };
            let Err(error) = &result else { break result };
            self.shared.metrics.unlock_failed(&job.key.keyspace, error.class);
            tracing::warn!(
                unlock_request_id = &*job.id,
                keyspace = &*job.key.keyspace,
                attempt,
                reason = error.class.as_str(),
                detail = error.detail,
                "unlock attempt failed"
            );
            if attempt >= settings.attempts_max || self.boot(job.boot_id).is_none() {
                break result;
            }
            attempt += 1;
            self.shared.metrics.unlock_retry.get_or_create(&by_keyspace(&job.key.keyspace)).inc();
            tokio::time::sleep(backoff.wait(random())).await;
        };
        self.report(job, &boot, &result).await;
    }

    /// `None`: another job has the same DEK in hand, and its result is this one's.
    async fn attempt(&self, job: &Job, boot: &Boot) -> Result<Option<Unlocked>, ExchangeError> {
        let dek_id = self.worker.resolve(job, boot).await?;
        let claim = self.shared.lock().queue.claim(job, dek_id);
        let (joins, joined) = match &claim {
            Claim::Own { absorbed: None } => (None, &job.id),
            Claim::Own { absorbed: Some(other) } => (Some(other), &job.id),
            Claim::Joined { other } => (Some(&job.id), other),
        };
        if let Some(joins) = joins {
            tracing::info!(
                unlock_request_id = &**joins,
                joined = &**joined,
                dek_id = const_hex::encode(dek_id),
                "unlock joins another of the same DEK"
            );
        }
        match claim {
            Claim::Own { .. } => self.worker.open(job, dek_id, boot).await.map(Some),
            Claim::Joined { .. } => Ok(None),
        }
    }

    async fn report(&self, job: &Job, boot: &Arc<Boot>, result: &Result<Unlocked, ExchangeError>) {
        let keyspace = &*job.key.keyspace;
        let rounds = self.shared.finish(job, result);
        if self.boot(job.boot_id).is_none() {
            return;
        }
        match result {
            Ok(unlocked) => {
                self.shared.metrics.unlocked(keyspace, job.queued_at.elapsed());
                let until = Instant::now() + Duration::from_millis(unlocked.valid_for_ms);
                self.status.update_keyspace(keyspace, |status| {
                    status.kms_error = None;
                    status.needs_person = false;
                });
                self.shared.metrics.needs_person(keyspace, false);
                tracing::info!(
                    unlock_request_id = &*job.id,
                    keyspace,
                    dek_id = const_hex::encode(unlocked.dek_id),
                    sealing = unlocked.sealing,
                    valid_for_ms = unlocked.valid_for_ms,
                    "unlocked"
                );
                if unlocked.sealing {
                    self.list_others(keyspace, unlocked.dek_id).await;
                    self.start_self_test(keyspace, boot, until);
                }
            }
            Err(error) => {
                let needs_person = rounds >= ROUNDS_UNTIL_PERSON;
                self.status.update_keyspace(keyspace, |status| {
                    status.kms_error = Some(error.class);
                    status.needs_person |= needs_person;
                });
                if needs_person {
                    self.shared.metrics.needs_person(keyspace, true);
                }
                if rounds == ROUNDS_UNTIL_PERSON {
                    tracing::error!(
                        unlock_request_id = &*job.id,
                        keyspace,
                        reason = error.class.as_str(),
                        detail = error.detail,
                        "unlock keeps failing; somebody should look, retries go on"
                    );
                }
            }
        }
    }

    /// Old keys are under old DEKs: every DEK that the store lists is unlocked too.
    async fn list_others(&self, keyspace: &str, sealing: [u8; 16]) {
        let name: Arc<str> = keyspace.into();
        let mut after = None;
        loop {
            match self.worker.records.deks(keyspace, after, DEK_PAGE_ROWS).await {
                Ok((deks, next)) => {
                    for dek in deks.iter().filter(|dek| dek.dek_id != sealing) {
                        let key = dek_key(&name, dek.dek_id);
                        if self.shared.request(key, Reason::Boot, None, Instant::now()).is_none() {
                            tracing::warn!(
                                keyspace,
                                jobs_max = BACKGROUND_JOBS_MAX,
                                "more DEKs than are unlocked ahead; the others wait for a request"
                            );
                            return;
                        }
                    }
                    if next.is_none() {
                        return;
                    }
                    after = next;
                }
                Err(error) => {
                    tracing::warn!(%error, keyspace, "the keyspace's DEKs cannot be listed");
                    return;
                }
            }
        }
    }

    /// In the background: it may have to be tried again, and other jobs wait for this worker.
    fn start_self_test(&self, keyspace: &str, boot: &Arc<Boot>, until: Instant) {
        let test = SelfTest {
            pool: self.worker.exchanger.pool.clone(),
            boots: self.boots.clone(),
            status: self.status.clone(),
            keyspace: keyspace.to_owned(),
            boot: Arc::clone(boot),
            until,
        };
        tokio::spawn(test.run());
    }
}

/// A new boot knows no DEK: everything of the configured keyspaces is asked for, in the background.
pub(super) async fn follow_boots(runner: Arc<Runner>, mut boots: BootWatch) {
    loop {
        let boot = boots.borrow_and_update().clone();
        runner.shared.lock().queue.start_boot(boot.as_ref().map(|boot| boot.boot_id));
        if boot.is_some() {
            for keyspace in &runner.keyspaces {
                let key = JobKey { keyspace: keyspace.as_str().into(), target: Target::Sealing };
                runner.shared.request(key, Reason::Boot, None, Instant::now());
            }
        }
        runner.shared.wake.notify_waiters();
        if boots.changed().await.is_err() {
            return;
        }
    }
}

pub(super) async fn work(runner: Arc<Runner>) {
    loop {
        // Listening starts before looking, so that no wake-up is missed.
        let woken = runner.shared.wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        match runner.shared.take() {
            Next::Run(job) => runner.run(&job).await,
            Next::Idle(Some(until)) => {
                tokio::select! {
                    () = woken => {}
                    () = sleep_until(until) => {}
                }
            }
            Next::Idle(None) => woken.await,
        }
    }
}
