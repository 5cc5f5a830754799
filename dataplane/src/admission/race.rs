//! The gate once more, out of loom's parts: what threads do to it, in every order.

use std::pin::pin;
use std::task::{Context, Waker};

mod sync {
    pub(super) use std::sync::PoisonError;

    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    pub(super) use loom::sync::{Arc, Mutex};
}
#[allow(clippy::duplicate_mod, reason = "the same code over other parts is the point")]
#[path = "gate.rs"]
mod gate;

use gate::{Entry, Gate, Ticket};
use loom::sync::Arc;
use loom::thread;

fn gate(max: u32) -> Arc<Gate> {
    let gate = Arc::new(Gate::new());
    gate.set(max, 8);
    gate
}

fn ticket(entry: Entry) -> Option<Ticket> {
    match entry {
        Entry::Queued(ticket) => Some(ticket),
        Entry::Entered(slot) => {
            drop(slot);
            None
        }
        Entry::Full => panic!("there is room for all to wait"),
    }
}

fn assert_empty(gate: &Arc<Gate>) {
    let count = gate.count();
    assert_eq!((count.in_flight, count.waiting), (0, 0));
    assert!(Gate::try_enter(gate).is_some());
}

#[test]
fn a_place_that_is_left_is_never_lost_on_who_begins_to_wait() {
    loom::model(|| {
        let gate = gate(1);
        let slot = Gate::try_enter(&gate).unwrap();
        let leaving = thread::spawn(move || drop(slot));
        let waits = ticket(Gate::enter_or_queue(&gate));
        leaving.join().unwrap();
        if let Some(mut ticket) = waits {
            assert!(is_called(&mut ticket));
        }
        assert_empty(&gate);
    });
}

#[test]
fn who_gives_up_takes_no_place_from_who_waits_on() {
    loom::model(|| {
        let gate = gate(1);
        let slot = Gate::try_enter(&gate).unwrap();
        let first = ticket(Gate::enter_or_queue(&gate)).unwrap();
        let mut second = ticket(Gate::enter_or_queue(&gate)).unwrap();
        let leaving = thread::spawn(move || drop(slot));
        let giving_up = thread::spawn(move || drop(first));
        leaving.join().unwrap();
        giving_up.join().unwrap();
        assert!(is_called(&mut second));
        assert_empty(&gate);
    });
}

#[test]
fn never_more_than_the_limit_are_in_flight() {
    loom::model(|| {
        let gate = gate(1);
        let other = Arc::clone(&gate);
        let both = thread::spawn(move || Gate::try_enter(&other));
        let here = Gate::try_enter(&gate);
        let there = both.join().unwrap();
        assert_eq!(u8::from(here.is_some()) + u8::from(there.is_some()), 1);
        drop((here, there));
        assert_empty(&gate);
    });
}

/// Whether its turn has come; takes the place and leaves it.
fn is_called(ticket: &mut (impl Future + Unpin)) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(ticket).poll(&mut cx).is_ready()
}
