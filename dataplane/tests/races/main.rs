//! The parts of the pool that threads share, run by loom through every order in which their steps can
//! come (row D4). The sources are those of the dataplane, over loom's atomics and locks.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(dead_code, reason = "the parts have more to offer than is explored here")]

mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
}

#[path = "../../src/pool/breaker.rs"]
mod breaker;
#[path = "../../src/pool/gate.rs"]
mod gate;
#[path = "../../src/pool/load.rs"]
mod load;

use std::time::Duration;

use breaker::{Event, Rules};
use gate::Gate;
use load::Load;
use loom::sync::Arc;
use loom::thread;
use tokio::time::Instant;

const RULES: Rules = Rules { failures_max: 2, recovery: Duration::from_secs(1) };

#[test]
fn of_requests_that_ask_a_shut_breaker_together_one_finds_out() {
    let start = Instant::now();
    loom::model(move || {
        let gate = Arc::new(Gate::new());
        for _ in 0..RULES.failures_max {
            gate.tell(Event::Failed { begun: start }, start, &RULES);
        }
        assert!(!gate.is_admitting());
        let later = start + RULES.recovery;
        let ask = |gate: Arc<Gate>| {
            thread::spawn(move || gate.is_admitting() || gate.admit(later, &RULES).is_ok())
        };
        let asked = [ask(Arc::clone(&gate)), ask(Arc::clone(&gate))];
        let here = gate.admit(later, &RULES).is_ok();
        let passed = asked.map(|asked| asked.join().unwrap());
        let count = passed.iter().filter(|passed| **passed).count() + usize::from(here);
        assert_eq!(count, 1, "one, whoever came first");
    });
}

#[test]
fn what_requests_read_of_the_breaker_is_what_it_is_once_all_is_quiet() {
    let start = Instant::now();
    loom::model(move || {
        let gate = Arc::new(Gate::new());
        let tell = |event| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                gate.tell(event, start, &RULES);
            })
        };
        let failed = Event::Failed { begun: start };
        let told = [tell(failed), tell(failed)];
        gate.tell(Event::Answered, start, &RULES);
        for told in told {
            told.join().unwrap();
        }
        let state = gate.state();
        assert_eq!(gate.is_admitting(), state.gauge() == 0);
        assert_eq!(gate.is_clear(), state == breaker::Breaker::NEW);
    });
}

#[test]
fn a_connection_that_leaves_never_does_so_with_a_request_on_it() {
    loom::model(|| {
        let load = Arc::new(Load::new());
        let enter = |load: Arc<Load>| thread::spawn(move || load.enter());
        let entered = [enter(Arc::clone(&load)), enter(Arc::clone(&load))];
        // Closed when this says that none is in flight; nobody may be told to go on after that.
        let closed = load.leave();
        let entered = entered.map(|entered| entered.join().unwrap());
        let count = entered.iter().filter(|entered| **entered).count();
        assert!(!(closed && count > 0), "closed with {count} on it");
        assert_eq!(load.in_flight(), count);
        entered.iter().filter(|entered| **entered).for_each(|_| load.exit());
        assert!(load.leave() && !load.enter());
        assert_eq!(load.in_flight(), 0);
    });
}
