//! Keeps one connection as its machine asks: opens it, gives it requests, probes it, closes it, waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sigil_enclave_client::connect::HandshakeError;
use sigil_enclave_protocol::v1::HealthRequest;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::{Connection, Effect, Event, Grade, Phase, Rules};
use super::events::{Event as Happened, Kind};
use super::lane::Lane;
use super::session::{Client, Keepalive, Session, SessionError};
use super::stream::{self, QUEUE_DEPTH_MAX};
use super::upstream::Orders;
use super::{Boot, Shared, backoff};

/// How often a connection that finishes is looked at.
const FINISH_LOOK: Duration = Duration::from_millis(5);

const NO_ANSWER: &str = "it does not answer its probes";

/// One place of a pool.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) boot: Arc<Boot>,
    /// Its number among the pool's.
    pub(super) index: usize,
    pub(super) orders: watch::Receiver<Orders>,
    /// Turns true when the place is not wanted any more.
    pub(super) leave: watch::Receiver<bool>,
    /// Its connection, from opening to closing.
    open: Option<Open>,
    /// Since when it has none; none before the first.
    lost: Option<Instant>,
    /// Why it has none.
    reason: String,
}

/// A connection that is up.
struct Open {
    lane: Arc<Lane>,
    stream: JoinHandle<Result<(), tonic::Status>>,
    _session: Session,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        boot: Arc<Boot>,
        index: usize,
        leave: watch::Receiver<bool>,
    ) -> Self {
        let orders = shared.upstream.orders();
        Self { shared, boot, index, orders, leave, open: None, lost: None, reason: String::new() }
    }

    /// Runs until the place is not wanted any more.
    pub(super) async fn run(mut self) {
        let mut connection = Connection::new();
        let mut effect = Effect::Connect;
        let mut counted = Counted::new(&self.shared, connection.phase());
        while effect != Effect::Stop {
            let event = self.act(effect).await;
            let now = Instant::now();
            let before = connection.phase();
            let rules = self.rules();
            (connection, effect) = connection.step(event, (now, backoff::random()), &rules);
            counted.moved(connection.phase());
            if !matches!(effect, Effect::Serve | Effect::Finish(_)) {
                self.close();
            }
            self.note((before, connection.phase()));
            self.log_wait(event, effect, now);
        }
    }

    /// Does what the machine asks for; what came of it.
    async fn act(&mut self, effect: Effect) -> Event {
        if let Effect::Finish(until) = effect {
            return self.finish(until).await;
        }
        let mut leave = self.leave.clone();
        tokio::select! {
            biased;
            Ok(_) = leave.wait_for(|leave| *leave) => Event::Drain,
            event = async {
                match effect {
                    Effect::Connect => self.connect().await,
                    Effect::Serve => self.serve().await,
                    Effect::Sleep(until) => {
                        sleep_until(until).await;
                        Event::Elapsed
                    }
                    Effect::Finish(_) | Effect::Stop => Event::Idle,
                }
            } => event,
        }
    }

    async fn connect(&mut self) -> Event {
        let keepalive = Keepalive::from(&self.orders.borrow().settings);
        let Boot { address, boot_id, token, .. } = &*self.boot;
        match Session::open(address, *boot_id, token, keepalive).await {
            Ok(session) => {
                self.open = Some(self.opened(session));
                Event::Opened
            }
            Err(error) => {
                self.reason = error.to_string();
                Event::Refused(grade_of_refusal(&error))
            }
        }
    }

    fn opened(&self, session: Session) -> Open {
        let (queue, receiver) = mpsc::channel(QUEUE_DEPTH_MAX);
        let way = (session.client.clone(), session.worker_index);
        let lane = Arc::new(Lane::new(way, queue, Arc::clone(&self.boot)));
        let wiring = stream::Wiring {
            upstream: Arc::clone(&self.shared.upstream),
            counters: Arc::clone(&self.shared.counters),
            answered: Arc::clone(&lane.answered),
        };
        let stream = tokio::spawn(stream::run(session.client.clone(), receiver, wiring));
        self.shared.replace(|lanes| lanes.push(Arc::clone(&lane)));
        Open { lane, stream, _session: session }
    }

    /// Until the connection ends or a probe has a result.
    async fn serve(&mut self) -> Event {
        let period = self.orders.borrow_and_update().settings.probe_period();
        let Some(open) = &mut self.open else { return Event::Ended(Grade::ReconnectNow) };
        let upstream = Arc::clone(&self.shared.upstream);
        let lane = Arc::clone(&open.lane);
        tokio::select! {
            ended = &mut open.stream => {
                let ended = ended.unwrap_or_else(|error| {
                    Err(tonic::Status::internal(error.to_string()))
                });
                if ended.is_err() {
                    upstream.failed(lane.opened);
                }
                let why = ended.as_ref().err().map_or("ended", |end| end.message());
                why.clone_into(&mut self.reason);
                Event::Ended(grade_of_end(&ended))
            }
            begun = probe(&lane, period) => match begun {
                Ok(()) => {
                    upstream.answered();
                    Event::Probed(true)
                }
                Err(begun) => {
                    upstream.failed(begun);
                    NO_ANSWER.clone_into(&mut self.reason);
                    Event::Probed(false)
                }
            },
            // Another period may hold now.
            Ok(()) = self.orders.changed() => Event::Elapsed,
        }
    }

    /// Until nothing is in flight, or the time is over.
    async fn finish(&mut self, until: Instant) -> Event {
        let Some(open) = &self.open else { return Event::Idle };
        let lane = Arc::clone(&open.lane);
        self.shared.replace(|lanes| lanes.remove(&lane));
        while !lane.load.leave() {
            if until <= Instant::now() {
                return Event::Elapsed;
            }
            sleep(FINISH_LOOK).await;
        }
        Event::Idle
    }

    fn close(&mut self) {
        if let Some(Open { lane, stream, .. }) = self.open.take() {
            self.shared.replace(|lanes| lanes.remove(&lane));
            lane.load.leave();
            stream.abort();
        }
    }

    /// Keeps and logs what is worth it.
    fn note(&mut self, (before, after): (Phase, Phase)) {
        let upstream = &self.shared.upstream;
        let at = Some((self.shared.worker, self.index));
        let add = |kind, reason: &str| {
            upstream.events.add(&upstream.enclave_id, Happened::new(kind, at, reason));
        };
        match (before, after) {
            (Phase::Connecting, Phase::Healthy) => match self.lost.take() {
                Some(lost) => {
                    let away_ms = lost.elapsed().as_millis();
                    add(Kind::Recovered, &format!("after {away_ms} ms: {}", self.reason));
                }
                None => add(Kind::Opened, &self.boot.boot_id.to_string()),
            },
            (Phase::Healthy, Phase::Degraded) => add(Kind::TakenOut, &self.reason),
            (Phase::Healthy, Phase::Draining) => add(Kind::Draining, "it is not wanted any more"),
            (Phase::Healthy, Phase::Connecting) => add(Kind::Ended, &self.reason),
            _ => {}
        }
        if before == Phase::Healthy && matches!(after, Phase::Connecting | Phase::Degraded) {
            self.lost = Some(Instant::now());
            self.shared.counters.resets.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The wait that was chosen at `now`.
    fn log_wait(&self, event: Event, effect: Effect, now: Instant) {
        let Effect::Sleep(until) = effect else { return };
        let wait = until.saturating_duration_since(now);
        let again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let (enclave_id, connection) = (self.shared.upstream.enclave_id.as_str(), self.index);
        let (boot_id, reason) = (self.boot.boot_id, self.reason.as_str());
        match event {
            Event::Ended(_) => tracing::info!(
                enclave_id, connection, %boot_id, reason, again_in_ms, "sign stream ended"
            ),
            Event::Refused(_) => tracing::debug!(
                enclave_id,
                connection,
                reason,
                again_in_ms,
                "no connection to the enclave"
            ),
            _ => {}
        }
    }

    fn rules(&self) -> Rules {
        let orders = self.orders.borrow();
        Rules {
            failures_max: orders.settings.failures,
            cooldown: Duration::from_millis(orders.settings.cooldown_ms),
            drain: Duration::from_millis(orders.settings.drain_ms),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

/// A period, and unless the connection has answered a request meanwhile, a question. `Err`: when the one
/// without an answer was sent.
async fn probe(lane: &Lane, period: Option<Duration>) -> Result<(), Instant> {
    let Some(period) = period else { return std::future::pending().await };
    let answered = lane.answered.load(Ordering::Relaxed);
    sleep(period).await;
    if lane.answered.load(Ordering::Relaxed) != answered {
        return Ok(());
    }
    let begun = Instant::now();
    let mut client: Client = lane.client.clone();
    match timeout(period, client.health(HealthRequest {})).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(begun),
    }
}

/// What a connection that did not come to be asks for.
fn grade_of_refusal(error: &SessionError) -> Grade {
    match error {
        // It said no, or it is another one: sooner will not help.
        SessionError::Handshake(HandshakeError::Refused(_) | HandshakeError::Timeout)
        | SessionError::OtherBoot(_) => Grade::BackOff,
        // It was cut, at whatever point.
        SessionError::Handshake(_) | SessionError::Connect(_) | SessionError::Http2(_) => {
            Grade::ReconnectNow
        }
    }
}

/// What the end of one asks for. RST_STREAM, UNAVAILABLE and a cut start the schedule; an enclave that
/// ends its streams in order is drained, one that is at its bound wants fewer.
fn grade_of_end(ended: &Result<(), tonic::Status>) -> Grade {
    match ended {
        Ok(()) => Grade::BackOff,
        Err(status) if status.code() == tonic::Code::ResourceExhausted => Grade::BackOff,
        Err(_) => Grade::ReconnectNow,
    }
}

/// The phase in which a place is counted, and none when it is dropped.
struct Counted {
    shared: Arc<Shared>,
    phase: Phase,
}

impl Counted {
    fn new(shared: &Arc<Shared>, phase: Phase) -> Self {
        shared.counters.moved(Phase::Closed, phase);
        Self { shared: Arc::clone(shared), phase }
    }

    fn moved(&mut self, phase: Phase) {
        self.shared.counters.moved(std::mem::replace(&mut self.phase, phase), phase);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.counters.moved(self.phase, Phase::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_enclave_protocol::handshake::{BootId, Refusal};

    #[test]
    fn errors_are_graded() {
        let cut = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let again = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let refused = HandshakeError::Refused(Refusal::TooMany);
        for (error, grade) in [
            (SessionError::Connect(cut), Grade::ReconnectNow),
            (SessionError::Handshake(refused), Grade::BackOff),
            (SessionError::Handshake(HandshakeError::Io(again)), Grade::ReconnectNow),
            (SessionError::Handshake(HandshakeError::Timeout), Grade::BackOff),
            (SessionError::OtherBoot(BootId([1; 16])), Grade::BackOff),
        ] {
            assert_eq!(grade_of_refusal(&error), grade, "{error}");
        }
        for (end, grade) in [
            (Ok(()), Grade::BackOff),
            (Err(tonic::Status::unavailable("gone")), Grade::ReconnectNow),
            (Err(tonic::Status::internal("RST_STREAM")), Grade::ReconnectNow),
            (Err(tonic::Status::resource_exhausted("bound")), Grade::BackOff),
        ] {
            assert_eq!(grade_of_end(&end), grade, "{end:?}");
        }
    }
}
