//! Which unlocks wait, which run, and in which order. Pure: every method takes the time.
//!
//! One job per (boot, DEK) however many requests ask for it. Rows of DEKs are write-once, so a DEK's
//! id names its revision too. A job for the sealing DEK learns its id only while it runs; from then on
//! asking for that DEK is asking for that job, and a job that was there before is merged with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::handshake::BootId;
use tokio::time::Instant;

use crate::status::KmsErrorClass;

/// Longest wait of a background job that keeps failing. A DEK that cannot be opened costs KMS a call
/// every few minutes; what was repaired is found as soon, and at once when somebody asks for it.
const BACKGROUND_DELAY_MAX: Duration = Duration::from_mins(5);
/// Background jobs at once. A keyspace has one DEK for each image that ever sealed for it: thousands
/// are years of releases. Rows beyond, junk mostly, wait until a request needs them.
pub(crate) const BACKGROUND_JOBS_MAX: usize = 4_096;

/// What is to be unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The DEK that seals new keys; it is made if the keyspace has none for this image.
    Sealing,
    /// The DEK with this id.
    Dek([u8; 16]),
}

/// Identity of a job within one boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct JobKey {
    pub(crate) keyspace: Arc<str>,
    pub(crate) target: Target,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A request met a locked DEK. Goes first; expires.
    Demand,
    /// A new boot, or a listed DEK.
    Boot,
    /// A DEK nears its end.
    Renewal,
}

/// One unlock.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) key: JobKey,
    /// What callers are given and what log and audit repeat.
    pub(crate) id: Arc<str>,
    pub(crate) boot_id: BootId,
    pub(crate) reason: Reason,
    /// A key under the DEK, whose record holds a copy of the wrapped DEK.
    pub(crate) key_id: Option<KeyId>,
    pub(crate) queued_at: Instant,
    /// Rounds of attempts that failed.
    pub(crate) rounds_failed: u32,
    pub(crate) last_error: Option<KmsErrorClass>,
    /// When it last unlocked a DEK that seals.
    pub(crate) sealed_at: Option<Instant>,
}

/// Where a job stands.
#[derive(Debug)]
enum Place {
    Ready,
    /// Waits for its time. What was asked after `early`, if there is such a time, starts it.
    Delayed {
        until: Instant,
        early: Option<Instant>,
    },
    Running,
    /// Waits for the job that has the same DEK in hand.
    Following(JobKey),
}

/// What a running job does about the DEK that it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It goes on; a job that waited for the same DEK is now part of it.
    Own { absorbed: Option<Arc<str>> },
    /// The job with this id does the same or did it after this one was asked for: it is over.
    Joined { other: Arc<str> },
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// What a worker does next.
#[derive(Debug)]
pub(crate) enum Next {
    Run(Job),
    /// Nothing is due before this time, or at all.
    Idle(Option<Instant>),
}

/// Jobs of one boot.
#[derive(Debug)]
pub(crate) struct Queue {
    boot_id: Option<BootId>,
    jobs: HashMap<JobKey, (Job, Place)>,
    /// DEKs that a job for the sealing DEK found to be its own, one a keyspace.
    found: HashMap<JobKey, JobKey>,
    demanded: VecDeque<JobKey>,
    background: VecDeque<JobKey>,
    depth_max: usize,
    time_max: Duration,
}

impl Queue {
    pub(crate) fn new(depth_max: usize, time_max: Duration) -> Self {
        Self {
            boot_id: None,
            jobs: HashMap::new(),
            found: HashMap::new(),
            demanded: VecDeque::new(),
            background: VecDeque::new(),
            depth_max,
            time_max,
        }
    }

    /// Other bounds hold from now on. What is queued stays.
    pub(crate) fn settle(&mut self, depth_max: usize, time_max: Duration) {
        (self.depth_max, self.time_max) = (depth_max, time_max);
    }

    /// Another boot, or none: what was asked of the old one is pointless.
    pub(crate) fn start_boot(&mut self, boot_id: Option<BootId>) {
        self.boot_id = boot_id;
        self.jobs.clear();
        self.found.clear();
        self.demanded.clear();
        self.background.clear();
    }

    /// Jobs that wait.
    pub(crate) fn depth(&self) -> usize {
        let waits = |place: &Place| matches!(place, Place::Ready | Place::Delayed { .. });
        self.jobs.values().filter(|(_, place)| waits(place)).count()
    }

    /// Asks for an unlock; gives the id of the one job that does it. `asked` is when the enclave was
    /// asked that had no DEK, or now: an answer from before an unlock starts no other, however late it
    /// comes.
    pub(crate) fn request(
        &mut self,
        key: JobKey,
        new_id: &str,
        reason: Reason,
        key_id: Option<KeyId>,
        asked: Instant,
    ) -> Result<Arc<str>, QueueFull> {
        let boot_id = self.boot_id.ok_or(QueueFull)?;
        let key = match self.found.get(&key) {
            Some(finder) if self.jobs.contains_key(finder) => finder.clone(),
            _ => key,
        };
        if let Some((job, place)) = self.jobs.get_mut(&key) {
            job.key_id = job.key_id.or(key_id);
            if reason == Reason::Demand {
                job.queued_at = job.queued_at.max(asked);
                if matches!(place, Place::Delayed { early: Some(early), .. } if *early < asked) {
                    // It goes first, and stays a job of the background: it does not expire.
                    *place = Place::Ready;
                    self.demanded.push_back(key);
                }
            }
            return Ok(Arc::clone(&job.id));
        }
        if self.is_full(reason) {
            return Err(QueueFull);
        }
        let id: Arc<str> = new_id.into();
        let job = Job {
            key: key.clone(),
            id: Arc::clone(&id),
            boot_id,
            reason,
            key_id,
            queued_at: asked,
            rounds_failed: 0,
            last_error: None,
            sealed_at: None,
        };
        let line = if reason == Reason::Demand { &mut self.demanded } else { &mut self.background };
        line.push_back(key.clone());
        self.jobs.insert(key, (job, Place::Ready));
        Ok(id)
    }

    /// Rows of the store that cannot be opened must not take the places of requests.
    fn is_full(&self, reason: Reason) -> bool {
        let demanded = self.jobs.values().filter(|(job, _)| job.reason == Reason::Demand).count();
        match reason {
            Reason::Demand => demanded >= self.depth_max,
            Reason::Boot | Reason::Renewal => self.jobs.len() - demanded >= BACKGROUND_JOBS_MAX,
        }
    }

    /// The next job, which is then running. Demanded ones first, each line in order of arrival.
    /// Expired ones are given to `expire` and forgotten.
    pub(crate) fn take(&mut self, now: Instant, expire: &mut dyn FnMut(&Job)) -> Next {
        self.wake(now);
        while let Some(key) = self.demanded.pop_front().or_else(|| self.background.pop_front()) {
            let Some((job, place)) = self.jobs.get_mut(&key) else { continue };
            if !matches!(place, Place::Ready) {
                continue;
            }
            if job.reason == Reason::Demand && now > job.queued_at + self.time_max {
                expire(job);
                self.jobs.remove(&key);
                continue;
            }
            *place = Place::Running;
            return Next::Run(job.clone());
        }
        let due = self.jobs.values().filter_map(|(_, place)| match place {
            Place::Delayed { until, .. } => Some(*until),
            Place::Ready | Place::Running | Place::Following(_) => None,
        });
        Next::Idle(due.min())
    }

    fn wake(&mut self, now: Instant) {
        for (key, (job, place)) in &mut self.jobs {
            if matches!(place, Place::Delayed { until, .. } if *until <= now) {
                *place = Place::Ready;
                if job.reason == Reason::Renewal {
                    job.queued_at = now;
                }
                let demanded = job.reason == Reason::Demand;
                let line = if demanded { &mut self.demanded } else { &mut self.background };
                line.push_back(key.clone());
            }
        }
    }

    /// The job is done; it comes again after `renew_after`, or when asked for. `sealing`: new keys
    /// are sealed under the DEK.
    pub(crate) fn done(&mut self, job: &Job, now: Instant, renew_after: Duration, sealing: bool) {
        if !self.is_current(job) {
            return;
        }
        if let Some((queued, place)) = self.jobs.get_mut(&job.key) {
            queued.reason = Reason::Renewal;
            queued.rounds_failed = 0;
            queued.last_error = None;
            queued.sealed_at = sealing.then_some(now);
            *place = Place::Delayed { until: now + renew_after, early: Some(now) };
        }
        self.tell_follower(&job.key);
    }

    /// The job failed. A demanded one comes again after `recovery`; one of the background waits twice
    /// as long each time, but a request may start it after `recovery`. Gives the rounds that failed.
    pub(crate) fn failed(
        &mut self,
        job: &Job,
        class: KmsErrorClass,
        now: Instant,
        recovery: Duration,
    ) -> u32 {
        if !self.is_current(job) {
            return 0;
        }
        let Some((queued, place)) = self.jobs.get_mut(&job.key) else { return 0 };
        queued.rounds_failed += 1;
        queued.last_error = Some(class);
        let rounds = queued.rounds_failed;
        *place = match queued.reason {
            Reason::Demand => Place::Delayed { until: now + recovery, early: None },
            Reason::Boot | Reason::Renewal => Place::Delayed {
                until: now + background_delay(recovery, rounds),
                early: Some(now + recovery),
            },
        };
        self.tell_follower(&job.key);
        rounds
    }

    /// A running job for the sealing DEK found which one that is. Whatever else was asked about this
    /// DEK is one job with it from now on.
    pub(crate) fn claim(&mut self, job: &Job, dek_id: [u8; 16]) -> Claim {
        let dek = JobKey { keyspace: Arc::clone(&job.key.keyspace), target: Target::Dek(dek_id) };
        if dek == job.key || !self.is_current(job) {
            return Claim::Own { absorbed: None };
        }
        self.found.retain(|_, finder| *finder != job.key);
        if let Some((other, Place::Running)) = self.jobs.get(&dek) {
            let other = Arc::clone(&other.id);
            if let Some((_, place)) = self.jobs.get_mut(&job.key) {
                *place = Place::Following(dek);
            }
            return Claim::Joined { other };
        }
        self.merge(&job.key, dek)
    }

    /// Makes the job of `dek`, which does not run, part of the job `finder`. What it came to counts
    /// for both: a failure with its delay always, a success if it was after `finder` was asked for.
    fn merge(&mut self, finder: &JobKey, dek: JobKey) -> Claim {
        let other = self.jobs.remove(&dek);
        self.found.insert(dek, finder.clone());
        let (Some((other, other_place)), Some((job, place))) = (other, self.jobs.get_mut(finder))
        else {
            return Claim::Own { absorbed: None };
        };
        job.key_id = job.key_id.or(other.key_id);
        let counts = match other_place {
            Place::Delayed { .. } if other.rounds_failed > 0 => true,
            Place::Delayed { .. } => other.sealed_at.is_some_and(|sealed| job.queued_at <= sealed),
            Place::Ready | Place::Running | Place::Following(_) => false,
        };
        if !counts {
            return Claim::Own { absorbed: Some(other.id) };
        }
        job.reason = other.reason;
        job.rounds_failed = other.rounds_failed;
        job.last_error = other.last_error;
        job.sealed_at = other.sealed_at;
        *place = other_place;
        Claim::Joined { other: other.id }
    }

    /// The job of a DEK ended: so did the one that waits for it, unless the result is none for it.
    fn tell_follower(&mut self, dek: &JobKey) {
        let finder = JobKey { keyspace: Arc::clone(&dek.keyspace), target: Target::Sealing };
        let follows = matches!(
            self.jobs.get(&finder), Some((_, Place::Following(followed))) if followed == dek
        );
        if follows
            && matches!(self.merge(&finder, dek.clone()), Claim::Own { .. })
            && let Some((_, place)) = self.jobs.get_mut(&finder)
        {
            *place = Place::Ready;
            self.background.push_back(finder);
        }
    }

    /// Everything that waits may run now.
    pub(crate) fn retry_all(&mut self, now: Instant) {
        for (job, place) in self.jobs.values_mut() {
            if let Place::Delayed { until, .. } = place
                && job.rounds_failed > 0
            {
                *until = now;
            }
        }
    }

    /// For `/debug/unlock`: at most `count_max` jobs with the name of their place.
    pub(crate) fn inspect(&self, count_max: usize) -> Vec<(&Job, &'static str)> {
        let named = |job: &Job, place: &Place| match place {
            Place::Ready => "ready",
            Place::Delayed { .. } if job.rounds_failed > 0 => "backing_off",
            Place::Delayed { .. } => "renewal",
            Place::Running => "running",
            Place::Following(_) => "joined",
        };
        self.jobs.values().take(count_max).map(|(job, place)| (job, named(job, place))).collect()
    }

    fn is_current(&self, job: &Job) -> bool {
        self.boot_id == Some(job.boot_id)
    }
}

/// `recovery` doubled with each round after the first.
fn background_delay(recovery: Duration, rounds_failed: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(rounds_failed.saturating_sub(1));
    recovery.saturating_mul(doubled).min(BACKGROUND_DELAY_MAX.max(recovery))
}

#[cfg(test)]
mod tests;
