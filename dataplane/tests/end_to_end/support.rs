//! Starts the parts on unix sockets in a folder of their own and talks to them as applications do.

mod bench;
mod callers;
mod client;
mod cutter;
mod database;
mod process;
pub(crate) mod tls;

pub(crate) use bench::{Bench, Settings};
pub(crate) use callers::{Callers, Seen};
pub(crate) use client::Answer;
pub(crate) use cutter::Cutter;
pub(crate) use database::Database;
pub(crate) use process::{allow_many_files, listen_as};
pub(crate) use tls::{Caller, Identity, TlsBench};

use std::time::Duration;

use tokio::time::{Instant, interval};

/// Longest wait for anything; generous, since machines of tests are shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// What tests of the pool need.
mod cable;

pub(crate) use cable::{Cable, while_running};
pub(crate) use process::kill_child_of;

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

/// A number from the environment: the short run of every test, or the long one of a release.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
