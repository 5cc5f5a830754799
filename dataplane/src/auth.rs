//! Who asks: a service account of the cluster by its token, the holder of a client certificate, or,
//! where no proof is asked for, whoever reaches the listener (decision 27). Tokens are verified here,
//! against the cluster's keys; nothing of it waits for the API server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::access::{Access, Caller};
use crate::config::Config;
use crate::error::{Code, Error};
use crate::ingress::peer::Peer;
use crate::metrics::Metrics;

mod cache;
mod keys;
mod refresh;
mod token;

pub(crate) use cache::{CallerCache, Remembered};
pub use keys::{KeySet, KeysError};
pub(crate) use refresh::Source;
pub use token::{Claims, Expected, TokenError, verify};

/// Decides who a request comes from. Shared by every thread.
pub(crate) struct Authenticator {
    /// What tokens must say; absent where tokens are not taken.
    tokens: Option<Expected>,
    /// The last good keys; none before the first.
    keys: ArcSwapOption<KeySet>,
    /// Somebody showed a token of a key that is not known.
    wanted: Notify,
    /// Whether callers must prove who they are; changes with the rules.
    is_on: AtomicBool,
    access: Arc<Access>,
    metrics: Arc<Metrics>,
}

// === impl Authenticator ===

impl Authenticator {
    /// As the settings say, without keys yet.
    pub(crate) fn new(config: &Config, access: Arc<Access>, metrics: Arc<Metrics>) -> Self {
        Self {
            tokens: config.auth.tokens.expected(config.member.as_ref()),
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            is_on: AtomicBool::new(config.authenticates()),
            access,
            metrics,
        }
    }

    /// Takes other settings; the rules' epoch must change after it.
    pub(crate) fn set(&self, config: &Config) {
        self.is_on.store(config.authenticates(), Ordering::Release);
    }

    /// Whether callers must prove who they are.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// The caller of a request that another member sent, by that member's word. `member` is for the logs.
    pub(crate) fn told_by_member(&self, subject: &str, member: &str) -> Result<Caller, Error> {
        match subject {
            _ if !self.is_on() => Ok(Caller::anybody(member)),
            "" => Err(self.refused("no_proof", NO_PROOF)),
            subject => Ok(self.access.caller(subject, None)),
        }
    }

    /// The caller behind `peer` that sent these headers. `remembered` is what is known of the connection,
    /// `cache` of the worker's tokens.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        (remembered, cache): (&Remembered, &CallerCache),
    ) -> Result<Caller, Error> {
        if self.tokens.is_some()
            && let Some(token) = bearer(headers)?
        {
            return self.by_token(token, cache);
        }
        let epoch = self.access.epoch();
        if let Some(caller) = remembered.get(epoch) {
            return Ok(caller);
        }
        let caller = match peer {
            peer if !self.is_on.load(Ordering::Acquire) => Caller::anybody(&peer.to_string()),
            Peer::Certificate(subject) => self.access.caller(subject.as_str(), None),
            _ => return Err(self.refused("no_proof", NO_PROOF)),
        };
        remembered.put(epoch, caller.clone());
        Ok(caller)
    }

    fn by_token(&self, token: &str, cache: &CallerCache) -> Result<Caller, Error> {
        let (now, epoch) = (Instant::now(), self.access.epoch());
        if let Some(caller) = cache.get(token, epoch, now) {
            return Ok(caller);
        }
        let claims = self.claims(token, unix_now())?;
        let left = claims.expires_s.saturating_sub(unix_now());
        let until = now + Duration::from_secs(left);
        let caller = self.access.caller(&claims.subject(), Some(until));
        cache.put(token, epoch, until, caller.clone());
        Ok(caller)
    }

    fn claims(&self, token: &str, now_s: u64) -> Result<Claims, Error> {
        let Some(expected) = &self.tokens else { return Err(self.refused("no_proof", NO_PROOF)) };
        let Some(keys) = self.keys.load_full() else {
            self.metrics.auth_refused("no_keys");
            return Err(Error::new(
                Code::RetryLater,
                "the cluster's keys for tokens are not known yet; send the request again",
            ));
        };
        verify(token, &keys, expected, now_s).map_err(|error| {
            if error == TokenError::UnknownKey {
                self.wanted.notify_one();
            }
            self.refused(error.label(), error.public())
        })
    }

    fn refused(&self, reason: &'static str, detail: &'static str) -> Error {
        self.metrics.auth_refused(reason);
        Error::new(Code::Unauthenticated, detail)
    }
}

/// What a caller without any proof is told.
const NO_PROOF: &str = "callers are authenticated here: send `Authorization: Bearer TOKEN` with a \
                        service-account token of this pool's audience, or use a client certificate";

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |detail| Error {
        field: Some("authorization".into()),
        ..Error::new(Code::Unauthenticated, detail)
    };
    if values.next().is_some() {
        return Err(wrong("the header authorization is given twice"));
    }
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    match text {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token)),
        _ => Err(wrong("the header authorization must be `Bearer TOKEN`")),
    }
}

/// Unix time, s.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
