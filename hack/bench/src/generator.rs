//! The load generator: a process of its own with one thread, so that nothing of it is counted as the
//! server's. Reads a [`Plan`] from standard input, says `measuring` when its window begins, and prints
//! an [`Outcome`]. What it asks for is a closed loop (each caller waits for its answer), or an open one
//! (requests at times that were drawn before, and latencies from those times, so that a server that
//! stalls cannot hide what came meanwhile).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use crate::clock;

mod arrivals;
mod callers;
mod digests;
mod grpc;
mod http1;
mod http2;
mod tally;

use arrivals::Arrivals;
use callers::{Caller, run_closed, run_open};
use digests::Digests;
pub(crate) use tally::Latency;
use tally::Tally;

/// Time that answers have after the window of an open loop.
const DRAIN: Duration = Duration::from_secs(2);

/// What is asked for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(clap::ValueEnum)]
pub(crate) enum Path {
    /// `POST /sign` on HTTP/1.1, one request at a time on a connection.
    Http1,
    /// `POST /sign` on HTTP/2.
    Http2,
    /// `Sign`.
    Grpc,
    /// `SignStream`.
    Stream,
    /// `SignBatch`.
    Batch,
}

/// A key that signs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublicKey {
    pub(crate) id: String,
    /// 33 bytes in hex.
    pub(crate) hex: String,
}

/// One load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) path: Path,
    pub(crate) address: SocketAddr,
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) connections: usize,
    /// Callers, each with one request under way.
    pub(crate) callers: usize,
    /// Digests of a `SignBatch`; requests under way on one `SignStream`.
    pub(crate) items: usize,
    /// Requests a second of an open loop; none for a closed one.
    pub(crate) rate: Option<f64>,
    /// Of a closed loop: requests of each caller, after which the run ends. There is no window then.
    pub(crate) each: Option<u64>,
    pub(crate) warm_up_ms: u64,
    pub(crate) window_ms: u64,
    /// Processes whose CPU is counted.
    pub(crate) processes: Vec<u32>,
    /// Of the digests and the arrivals.
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) signatures: u64,
    /// Of each process of the plan.
    pub(crate) cpu_ns: Vec<u64>,
    /// Signatures that were verified.
    pub(crate) verified: u64,
    /// Requests without a signature, by why.
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) latency: Latency,
    /// Of an open loop: requests that fell due, and those without an answer at its end.
    pub(crate) scheduled: u64,
    pub(crate) unanswered: u64,
}

/// Runs the plan on standard input.
pub(crate) fn run() -> Result<()> {
    let plan: Plan = serde_json::from_reader(std::io::stdin()).context("read the plan")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, load(Rc::new(plan)))?;
    println!("{}", serde_json::to_string(&outcome)?);
    std::io::stdout().flush()?;
    // Connections and callers end with the process.
    std::process::exit(0);
}

async fn load(plan: Rc<Plan>) -> Result<Outcome> {
    ensure!(!plan.keys.is_empty() && plan.connections > 0 && plan.callers > 0, "an empty plan");
    let tally = Rc::new(RefCell::new(Tally::new(plan.each)?));
    let arrivals = plan.rate.map(|rate| Rc::new(Arrivals::new(rate, plan.seed)));
    match plan.path {
        Path::Http1 => start(http1::connect_all(&plan).await?, &tally, arrivals.as_ref()),
        Path::Http2 => start(http2::connect_all(&plan).await?, &tally, arrivals.as_ref()),
        Path::Grpc => start(grpc::unary(&plan).await?, &tally, arrivals.as_ref()),
        Path::Batch => start(grpc::batches(&plan).await?, &tally, arrivals.as_ref()),
        Path::Stream => {
            ensure!(arrivals.is_none(), "a stream has no open loop");
            grpc::streams(&plan, &tally).await?;
        }
    }
    match plan.each {
        None => measure(&plan, &tally, arrivals).await,
        Some(_) => count(&plan, &tally).await,
    }
}

fn start<C: Caller + 'static>(
    callers: Vec<C>,
    tally: &Rc<RefCell<Tally>>,
    arrivals: Option<&Rc<Arrivals>>,
) {
    for caller in callers {
        let tally = Rc::clone(tally);
        match arrivals {
            None => drop(tokio::task::spawn_local(run_closed(caller, tally))),
            Some(arrivals) => {
                drop(tokio::task::spawn_local(run_open(caller, tally, Rc::clone(arrivals))));
            }
        }
    }
}

/// Waits until every caller has sent all that it is to send.
async fn count(plan: &Plan, tally: &Rc<RefCell<Tally>>) -> Result<Outcome> {
    println!("measuring");
    std::io::stdout().flush()?;
    let started = Instant::now();
    while tally.borrow().callers_done() < plan.callers {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let signatures = tally.borrow_mut().end(Instant::now());
    let mut outcome =
        Outcome { seconds: started.elapsed().as_secs_f64(), signatures, ..Outcome::default() };
    tally.borrow().fill(&mut outcome);
    Ok(outcome)
}

async fn measure(
    plan: &Plan,
    tally: &Rc<RefCell<Tally>>,
    arrivals: Option<Rc<Arrivals>>,
) -> Result<Outcome> {
    if let Some(arrivals) = &arrivals {
        tokio::task::spawn_local(Rc::clone(arrivals).pace(Rc::clone(tally)));
    }
    tokio::time::sleep(Duration::from_millis(plan.warm_up_ms)).await;
    println!("measuring");
    std::io::stdout().flush()?;
    let cpu =
        || plan.processes.iter().map(|id| clock::process_cpu_ns(*id)).collect::<Result<Vec<_>>>();
    let (started, before) = (Instant::now(), cpu()?);
    tally.borrow_mut().begin(started);
    tokio::time::sleep(Duration::from_millis(plan.window_ms)).await;
    let (after, ended) = (cpu()?, Instant::now());
    let signatures = tally.borrow_mut().end(ended);
    let mut outcome = Outcome {
        seconds: (ended - started).as_secs_f64(),
        signatures,
        cpu_ns: before
            .iter()
            .zip(&after)
            .map(|(before, after)| after.saturating_sub(*before))
            .collect(),
        ..Outcome::default()
    };
    if let Some(arrivals) = arrivals {
        arrivals.stop();
        let drained = Instant::now() + DRAIN;
        while tally.borrow().outstanding() > 0 && Instant::now() < drained {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tally.borrow().fill(&mut outcome);
    Ok(outcome)
}
