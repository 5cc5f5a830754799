//! When a connection is of no use: nobody asks, or nobody reads the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::HEAD_TIME_MAX;
use super::peer::Peer;
use crate::auth::Remembered;

/// A connection without a request for this long (and one look more) is closed: clients dial again, while
/// connections that were forgotten would take the places of others.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_mins(5);
/// How often a connection is looked at. With every request a timer would cost each of them.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Requests of one connection; those of a `SignStream` count one each.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who asks.
    pub(super) peer: Peer,
    /// What that came to.
    pub(super) remembered: Remembered,
    /// `SignStream`s that are open.
    streams: AtomicU32,
    begun: AtomicU64,
    ended: AtomicU64,
    ending: watch::Sender<bool>,
}

/// Why a connection is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// There never was a request.
    NeverUsed,
    /// The next request did not come.
    Quiet,
    /// Answers are not taken.
    Stalled,
}

/// An open `SignStream`; it ends when dropped.
pub(super) struct OpenStream(Arc<Connection>);

/// Counts a request as ended when dropped.
pub(super) struct Begun<'a>(&'a Connection);

impl Connection {
    /// One that was just accepted.
    pub(super) fn of(peer: Peer) -> Self {
        Self {
            peer,
            remembered: Remembered::default(),
            streams: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            ending: watch::Sender::new(false),
        }
    }

    /// A request came.
    pub(super) fn begin(&self) -> Begun<'_> {
        self.stream_begins();
        Begun(self)
    }

    /// One more `SignStream`, if fewer than `max` are open.
    pub(super) fn open_stream(self: &Arc<Self>, max: u32) -> Option<OpenStream> {
        let more = |open| (open < max).then_some(open + 1);
        let opened = self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        opened.is_ok().then(|| OpenStream(Arc::clone(self)))
    }

    /// A request came on an open stream.
    pub(super) fn stream_begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// As many requests of a stream were answered or will not be.
    pub(super) fn stream_ends(&self, requests: usize) {
        self.ended.fetch_add(requests as u64, Ordering::Relaxed);
    }

    /// Tells open streams to come to their end.
    pub(super) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Becomes true when open streams should end.
    pub(super) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Ends when the first request or the next one does not come in time, or when requests that take at
    /// most `request_time_max` stay without an end.
    pub(super) async fn until_idle(&self, request_time_max: Duration) -> Idle {
        sleep(HEAD_TIME_MAX).await;
        let (mut seen, mut still) = (self.counts(), Duration::ZERO);
        if seen == (0, 0) {
            return Idle::NeverUsed;
        }
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = self.counts();
            still = if now == seen { still + LOOK_INTERVAL } else { Duration::ZERO };
            seen = now;
            let (begun, ended) = now;
            if begun == ended && still >= IDLE_TIME_MAX {
                return Idle::Quiet;
            }
            if begun != ended && still > request_time_max {
                return Idle::Stalled;
            }
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.stream_ends(1);
    }
}
