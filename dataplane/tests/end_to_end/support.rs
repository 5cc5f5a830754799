//! Starts the parts on unix sockets in a folder of their own and talks to them as applications do.

mod bench;
mod client;
mod cutter;
mod process;
mod tls;

pub(crate) use bench::{Bench, Settings};
pub(crate) use client::Answer;
pub(crate) use cutter::Cutter;
pub(crate) use process::listen_as;
pub(crate) use tls::{Identity, TlsBench};

use std::time::Duration;

use tokio::time::{Instant, interval};

/// Longest wait for anything; generous, since machines of tests are shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer. Panics with `what` when patience ends.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}
