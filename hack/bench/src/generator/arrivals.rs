//! Requests that fall due at times which do not depend on the server: a Poisson process.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::Tally;
use crate::clock;

/// Requests that fall due together, if the machine lets the pacing thread sleep too long.
const TOGETHER_MAX: usize = 1_024;

pub(super) struct Arrivals {
    gaps: Cell<Option<Gaps>>,
    due: RefCell<VecDeque<Instant>>,
    /// For callers that are free.
    came: Notify,
    stopped: Cell<bool>,
}

/// Times between arrivals.
struct Gaps {
    rate: f64,
    random: u64,
}

impl Arrivals {
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self {
            gaps: Cell::new(Some(Gaps { rate, random: seed | 1 })),
            due: RefCell::default(),
            came: Notify::new(),
            stopped: Cell::new(false),
        }
    }

    /// The next request that is due; waits for one. What nobody was free for waits here, and its
    /// latency goes on.
    pub(super) async fn next(&self) -> Instant {
        loop {
            let due = self.due.borrow_mut().pop_front();
            if let Some(due) = due {
                return due;
            }
            self.came.notified().await;
        }
    }

    /// Nothing more falls due.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
    }

    /// Lets requests fall due. The runtime's own timers are whole milliseconds, so a thread sleeps.
    pub(super) async fn pace(self: Rc<Self>, tally: Rc<RefCell<Tally>>) {
        let Some(gaps) = self.gaps.take() else { return };
        let (sender, mut fallen) = mpsc::unbounded_channel();
        std::thread::spawn(move || gaps.run(&sender));
        let mut together = Vec::with_capacity(TOGETHER_MAX);
        while !self.stopped.get() && fallen.recv_many(&mut together, TOGETHER_MAX).await > 0 {
            for due in together.drain(..) {
                tally.borrow_mut().due(due);
                self.due.borrow_mut().push_back(due);
                self.came.notify_one();
            }
        }
    }
}

impl Gaps {
    fn run(mut self, sender: &mpsc::UnboundedSender<Instant>) {
        let mut due = Instant::now();
        loop {
            due += self.next();
            clock::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                return;
            }
        }
    }

    /// Exponentially distributed, by inversion of a uniform variable (xorshift64, Marsaglia 2003).
    fn next(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let uniform = ((self.random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_of_the_rate_and_the_spread_of_an_exponential() {
        let mut source = Gaps { rate: 1_000.0, random: 7 };
        let gaps: Vec<f64> = (0..100_000).map(|_| source.next().as_secs_f64() * 1e3).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() - 1.0).abs() < 0.03, "{variance}");
    }
}
