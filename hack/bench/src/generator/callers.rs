//! One caller: asks, waits for the answer, asks again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::Tally;
use super::arrivals::Arrivals;

/// Somebody with one request under way.
pub(super) trait Caller {
    /// Sends the next request and waits for its answer. `check` asks for it to be verified. Gives the
    /// signatures in it, or why there are none.
    async fn call(&mut self, check: bool) -> Result<u32, String>;

    /// Whether another call may succeed after a failure.
    fn lives(&self) -> bool {
        true
    }
}

/// Asks again as soon as the answer is there.
pub(super) async fn run_closed<C: Caller>(mut caller: C, tally: Rc<RefCell<Tally>>) {
    let mut sent = 0;
    while tally.borrow_mut().wants_more(sent) {
        sent += 1;
        let begun = Instant::now();
        let result = call(&mut caller, &tally).await;
        let failed = result.is_err();
        tally.borrow_mut().ended(begun.elapsed(), result);
        if failed && !caller.lives() {
            return;
        }
    }
}

/// Takes whatever request is due.
pub(super) async fn run_open<C: Caller>(
    mut caller: C,
    tally: Rc<RefCell<Tally>>,
    arrivals: Rc<Arrivals>,
) {
    loop {
        let due = arrivals.next().await;
        let result = call(&mut caller, &tally).await;
        let failed = result.is_err();
        tally.borrow_mut().ended_late(due, result);
        if failed && !caller.lives() {
            return;
        }
    }
}

async fn call<C: Caller>(caller: &mut C, tally: &Rc<RefCell<Tally>>) -> Result<u32, String> {
    let check = tally.borrow_mut().samples();
    let result = caller.call(check).await;
    if check && result.is_ok() {
        tally.borrow_mut().verified();
    }
    result
}
