//! Which unlocks wait, which run, and in which order. Pure: every method takes the time.
//!
//! One job per (boot, DEK) however many requests ask for it. Rows of DEKs are write-once, so a DEK's
//! id names its revision too.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_protocol::KeyId;
use sigil_enclave_protocol::handshake::BootId;
use tokio::time::Instant;

use crate::status::KmsErrorClass;

/// After an unlock, answers that the enclave gave before it may still arrive here. They must not start
/// another one.
const SETTLE_TIME: Duration = Duration::from_millis(500);

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
}

/// Where a job stands.
#[derive(Debug)]
enum Place {
    Ready,
    /// Waits for its time. A request may start it from `early` on, if there is such a time.
    Delayed {
        until: Instant,
        early: Option<Instant>,
    },
    Running,
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
            demanded: VecDeque::new(),
            background: VecDeque::new(),
            depth_max,
            time_max,
        }
    }

    /// Another boot, or none: what was asked of the old one is pointless.
    pub(crate) fn start_boot(&mut self, boot_id: Option<BootId>) {
        self.boot_id = boot_id;
        self.jobs.clear();
        self.demanded.clear();
        self.background.clear();
    }

    /// Jobs that wait.
    pub(crate) fn depth(&self) -> usize {
        self.jobs.values().filter(|(_, place)| !matches!(place, Place::Running)).count()
    }

    /// Asks for an unlock; gives the id of the one job that does it.
    pub(crate) fn request(
        &mut self,
        key: JobKey,
        new_id: &str,
        reason: Reason,
        key_id: Option<KeyId>,
        now: Instant,
    ) -> Result<Arc<str>, QueueFull> {
        let boot_id = self.boot_id.ok_or(QueueFull)?;
        if let Some((job, place)) = self.jobs.get_mut(&key) {
            job.key_id = job.key_id.or(key_id);
            if reason == Reason::Demand {
                job.queued_at = now;
                if matches!(place, Place::Delayed { early: Some(from), .. } if *from <= now) {
                    *place = Place::Ready;
                    job.reason = reason;
                    self.demanded.push_back(key);
                }
            }
            return Ok(Arc::clone(&job.id));
        }
        if self.jobs.len() >= self.depth_max {
            return Err(QueueFull);
        }
        let id: Arc<str> = new_id.into();
        let job = Job {
            key: key.clone(),
            id: Arc::clone(&id),
            boot_id,
            reason,
            key_id,
            queued_at: now,
            rounds_failed: 0,
            last_error: None,
        };
        let line = if reason == Reason::Demand { &mut self.demanded } else { &mut self.background };
        line.push_back(key.clone());
        self.jobs.insert(key, (job, Place::Ready));
        Ok(id)
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
            Place::Ready | Place::Running => None,
        });
        Next::Idle(due.min())
    }

    fn wake(&mut self, now: Instant) {
        for (key, (job, place)) in &mut self.jobs {
            if matches!(place, Place::Delayed { until, .. } if *until <= now) {
                *place = Place::Ready;
                let demanded = job.reason == Reason::Demand;
                let line = if demanded { &mut self.demanded } else { &mut self.background };
                line.push_back(key.clone());
            }
        }
    }

    /// The job is done; it comes again after `renew_after`, or when asked for.
    pub(crate) fn done(&mut self, job: &Job, now: Instant, renew_after: Option<Duration>) {
        if !self.is_current(job) {
            return;
        }
        let Some(after) = renew_after else {
            self.jobs.remove(&job.key);
            return;
        };
        if let Some((queued, place)) = self.jobs.get_mut(&job.key) {
            queued.reason = Reason::Renewal;
            queued.rounds_failed = 0;
            queued.last_error = None;
            *place = Place::Delayed { until: now + after, early: Some(now + SETTLE_TIME) };
        }
    }

    /// The job failed and comes again after `delay`, not earlier. Gives the rounds that failed.
    pub(crate) fn failed(
        &mut self,
        job: &Job,
        class: KmsErrorClass,
        now: Instant,
        delay: Duration,
    ) -> u32 {
        if !self.is_current(job) {
            return 0;
        }
        match self.jobs.get_mut(&job.key) {
            Some((queued, place)) => {
                queued.rounds_failed += 1;
                queued.last_error = Some(class);
                *place = Place::Delayed { until: now + delay, early: None };
                queued.rounds_failed
            }
            None => 0,
        }
    }

    /// Another name for a running job: true if `key` is free and is now taken by it.
    pub(crate) fn claim(&mut self, job: &Job, key: &JobKey) -> bool {
        if !self.is_current(job) || self.jobs.contains_key(key) {
            return false;
        }
        let named = Job { key: key.clone(), ..job.clone() };
        self.jobs.insert(key.clone(), (named, Place::Running));
        true
    }

    /// Gives a claimed name back.
    pub(crate) fn release(&mut self, job: &Job, key: &JobKey) {
        if self.is_current(job) {
            self.jobs.remove(key);
        }
    }

    /// Everything that waits may run now.
    pub(crate) fn retry_all(&mut self, now: Instant) {
        for (_, place) in self.jobs.values_mut() {
            if let Place::Delayed { until, early: None } = place {
                *until = now;
            }
        }
    }

    /// For `/debug/unlock`: at most `count_max` jobs with the name of their place.
    pub(crate) fn inspect(&self, count_max: usize) -> Vec<(&Job, &'static str)> {
        let named = |place: &Place| match place {
            Place::Ready => "ready",
            Place::Delayed { early: Some(_), .. } => "renewal",
            Place::Delayed { .. } => "backing_off",
            Place::Running => "running",
        };
        self.jobs.values().take(count_max).map(|(job, place)| (job, named(place))).collect()
    }

    fn is_current(&self, job: &Job) -> bool {
        self.boot_id == Some(job.boot_id)
    }
}

#[cfg(test)]
mod tests;
