//! Keeps jobs away from a KMS that fails. Pure: every method takes the time.

use std::time::Duration;

use tokio::time::Instant;

/// Whether a job may talk to KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Go on; the result must be reported.
    Admitted,
    /// Not before this time.
    Until(Instant),
    /// One job is finding out; wait for its result.
    Waiting,
}

/// State of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Jobs run.
    Admitting,
    /// Jobs wait until then.
    Shut { until: Instant },
    /// One job runs to see whether KMS is back.
    Probing,
}

/// A breaker for one KMS.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    recovery: Duration,
}

impl Breaker {
    pub(crate) fn new(recovery: Duration) -> Self {
        Self { state: State::Admitting, recovery }
    }

    /// Another recovery time, from the next failure on.
    pub(crate) fn settle(&mut self, recovery: Duration) {
        self.recovery = recovery;
    }

    /// Asks for one job.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Admitting => Admission::Admitted,
            State::Shut { until } if now < until => Admission::Until(until),
            State::Shut { .. } => {
                self.state = State::Probing;
                Admission::Admitted
            }
            State::Probing => Admission::Waiting,
        }
    }

    /// KMS answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        self.state = State::Admitting;
    }

    /// A job used up its attempts on KMS.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.state = State::Shut { until: now + self.recovery };
    }

    /// The job ended without asking KMS, so it proves nothing; another may probe.
    pub(crate) fn undecided(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Shut { until: now };
        }
    }

    /// An operator asks for another try now.
    pub(crate) fn reset(&mut self) {
        self.state = State::Admitting;
    }

    /// Name of the state.
    pub(crate) fn name(&self) -> &'static str {
        match self.state {
            State::Admitting => "Admitting",
            State::Shut { .. } => "Shut",
            State::Probing => "Probing",
        }
    }

    /// Value of the metric: 0 admitting, 1 probing, 2 shut.
    pub(crate) fn gauge(&self) -> i64 {
        match self.state {
            State::Admitting => 0,
            State::Probing => 1,
            State::Shut { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECOVERY: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_shuts_probes_once_and_admits_again() {
        let mut breaker = Breaker::new(RECOVERY);
        let start = Instant::now();
        assert_eq!(breaker.admit(start), Admission::Admitted);
        breaker.failed(start);
        assert_eq!(breaker.admit(start), Admission::Until(start + RECOVERY));
        tokio::time::advance(RECOVERY).await;
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted, "the probe");
        assert_eq!((breaker.name(), breaker.gauge()), ("Probing", 1));
        assert_eq!(breaker.admit(Instant::now()), Admission::Waiting, "one probe only");
        breaker.answered();
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted);
        assert_eq!((breaker.name(), breaker.gauge()), ("Admitting", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_shuts_it_again_and_a_reset_opens_it() {
        let mut breaker = Breaker::new(RECOVERY);
        breaker.failed(Instant::now());
        tokio::time::advance(RECOVERY).await;
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted);
        breaker.failed(Instant::now());
        assert_eq!((breaker.name(), breaker.gauge()), ("Shut", 2));
        assert!(matches!(breaker.admit(Instant::now()), Admission::Until(_)));
        breaker.reset();
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_asked_lets_another_probe() {
        let mut breaker = Breaker::new(RECOVERY);
        breaker.failed(Instant::now());
        tokio::time::advance(RECOVERY).await;
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted);
        breaker.undecided(Instant::now());
        assert_eq!(breaker.admit(Instant::now()), Admission::Admitted);
    }
}
