//! Who may do what, in which keyspace and how often (decision 27). With authentication on, what no rule
//! allows is refused. A caller's rights are worked out once; a request then looks one keyspace up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::config::{AccessRule, Config};
use crate::error::{Code, Error};

mod rate;
#[cfg(test)]
mod tests;

use rate::Bucket;

/// Buckets kept for callers that are not there at the moment.
const BUCKETS_MAX: usize = 16_384;

/// What a caller does with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    /// Make one.
    Create,
    /// Sign with one, alone, in a batch or on a stream.
    Sign,
    /// List those of a keyspace.
    List,
    /// Look at one or have it proved.
    Read,
}

/// The rules in force. Shared by every thread.
pub(crate) struct Access {
    state: Mutex<State>,
    /// Grows with each change of the rules: rights of an earlier one are worked out again.
    epoch: AtomicU64,
    /// What buckets count their time from.
    start: Instant,
}

struct State {
    rules: Vec<AccessRule>,
    keyspaces: Vec<String>,
    /// By subject, keyspace and verb, so that all workers take from one.
    buckets: HashMap<(Box<str>, Box<str>, Verb), Arc<Bucket>>,
}

/// Who asks, with what it may do. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// For log and audit.
    name: Box<str>,
    /// The name that was proved; empty if none was.
    subject: Box<str>,
    /// By keyspace; absent where nobody is authenticated, and everybody may do everything.
    rights: Option<HashMap<Box<str>, Rights>>,
    epoch: u64,
    /// When the proof ends.
    until: Option<Instant>,
}

/// By verb.
type Rights = [Option<Grant>; 4];

#[derive(Clone, Debug)]
struct Grant {
    bucket: Option<Arc<Bucket>>,
}

// === impl Verb ===

impl Verb {
    const ALL: [Self; 4] = [Self::Create, Self::Sign, Self::List, Self::Read];

    /// As rules and the audit name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Sign => "sign",
            Self::List => "list",
            Self::Read => "read",
        }
    }

    fn of<T>(self, rights: &[T; 4]) -> &T {
        let [create, sign, list, read] = rights;
        match self {
            Self::Create => create,
            Self::Sign => sign,
            Self::List => list,
            Self::Read => read,
        }
    }
}

// === impl Access ===

impl Access {
    /// The rules of `config`.
    pub(crate) fn new(config: &Config) -> Self {
        let state = State {
            rules: config.access.0.clone(),
            keyspaces: config.keyspaces.0.clone(),
            buckets: HashMap::new(),
        };
        Self { state: Mutex::new(state), epoch: AtomicU64::new(1), start: Instant::now() }
    }

    /// Takes other rules. What callers have used of their rates still counts.
    pub(crate) fn set(&self, config: &Config) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.rules != config.access.0 {
            state.rules.clone_from(&config.access.0);
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Which rules are in force.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The caller with this proved name, until its proof ends.
    pub(crate) fn caller(&self, subject: &str, until: Option<Instant>) -> Caller {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch();
        let rights = state.rights(subject, self.start);
        Caller(Arc::new(Known {
            name: subject.into(),
            subject: subject.into(),
            rights: Some(rights),
            epoch,
            until,
        }))
    }

    /// The same caller under the rules in force, for requests of a stream that lasts.
    pub(crate) fn renewed(&self, caller: &Caller) -> Option<Caller> {
        let known = &caller.0;
        let is_old = known.rights.is_some() && known.epoch != self.epoch();
        is_old.then(|| self.caller(&known.subject, known.until))
    }
}

// === impl State ===

impl State {
    fn rights(&mut self, subject: &str, start: Instant) -> HashMap<Box<str>, Rights> {
        if self.buckets.len() >= BUCKETS_MAX {
            // Those in use are somebody's rights.
            self.buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1);
        }
        let mut all = HashMap::new();
        for keyspace in &self.keyspaces {
            let rights = Verb::ALL.map(|verb| {
                let rule = self.rules.iter().find(|rule| rule.covers(subject, keyspace, verb))?;
                let Some((per_second, burst)) = rule.rate() else {
                    return Some(Grant { bucket: None });
                };
                let key = (subject.into(), keyspace.as_str().into(), verb);
                let bucket =
                    self.buckets.entry(key).or_insert_with(|| Arc::new(Bucket::new(start)));
                bucket.set(per_second, burst);
                Some(Grant { bucket: Some(Arc::clone(bucket)) })
            });
            if rights.iter().any(Option::is_some) {
                all.insert(keyspace.as_str().into(), rights);
            }
        }
        all
    }
}

// === impl Caller ===

impl Caller {
    /// Where no proof is asked for.
    pub(crate) fn anybody(name: &str) -> Self {
        Self(Arc::new(Known {
            name: name.into(),
            subject: "".into(),
            rights: None,
            epoch: 0,
            until: None,
        }))
    }

    /// For log and audit.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// The name that was proved; empty if none was. It is part of what idempotency keys mean.
    pub(crate) fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Whether the caller may do this once, now.
    pub(crate) fn may(&self, verb: Verb, keyspace: &str) -> Result<(), Error> {
        let Some(rights) = &self.0.rights else { return Ok(()) };
        let grant = rights.get(keyspace).and_then(|rights| verb.of(rights).as_ref());
        let Some(grant) = grant else { return Err(self.denied(verb, keyspace)) };
        let Some(bucket) = &grant.bucket else { return Ok(()) };
        bucket.take(Instant::now()).map_err(|wait| {
            let detail = format!(
                "more {verb} requests than this caller's rate in {keyspace}",
                verb = verb.as_str()
            );
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
            Error { retry_after_ms: Some(wait_ms), ..Error::new(Code::Overloaded, detail) }
        })
    }

    /// The proof still holds. On a stream it may end between two requests.
    pub(crate) fn is_current(&self) -> Result<(), Error> {
        match self.0.until {
            Some(until) if until <= Instant::now() => Err(Error::new(
                Code::Unauthenticated,
                "the token that opened this stream has expired; open another with a new one",
            )),
            _ => Ok(()),
        }
    }

    fn denied(&self, verb: Verb, keyspace: &str) -> Error {
        let (name, verb) = (self.name(), verb.as_str());
        let detail = format!("no rule of `access` lets {name} {verb} in keyspace {keyspace}");
        Error::new(Code::PermissionDenied, detail)
    }
}
