//! Places in flight, shared by every thread. Both counts are one atomic word, so entering and leaving
//! take no lock while nobody waits. Who waits is served in turn, and may stop waiting at any time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, PoisonError};
use crate::admission::count::Count;

/// Places and the queue for them.
#[derive(Debug)]
pub(crate) struct Gate {
    /// A [`Count`].
    word: AtomicU64,
    /// Requests in flight at most; 0: no limit.
    max: AtomicU32,
    /// Requests that may wait.
    waiting_max: AtomicU32,
    /// Who waits, oldest first. There are as many seats as the word says wait, and one more for each
    /// place that was granted and is not handed over yet.
    seats: Mutex<VecDeque<Arc<Seat>>>,
}

/// A place in flight.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Arc<Gate>,
}

/// A place in the queue; becomes a [`Slot`]. Dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    seat: Arc<Seat>,
    /// The slot is somebody else's care.
    is_over: bool,
}

/// What came of asking for a place.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is here.
    Entered(Slot),
    /// It comes later.
    Queued(Ticket),
    /// As many wait as may.
    Full,
}

#[derive(Debug, Default)]
struct Seat(Mutex<Turn>);

#[derive(Debug, Default)]
struct Turn {
    has_come: bool,
    waker: Option<Waker>,
}

// === impl Gate ===

impl Gate {
    /// Without a limit.
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            max: AtomicU32::new(0),
            waiting_max: AtomicU32::new(0),
            seats: Mutex::new(VecDeque::new()),
        }
    }

    /// Takes other bounds. With more places, those that wait come in.
    pub(crate) fn set(&self, max: u32, waiting_max: u32) {
        self.max.store(max, Ordering::Release);
        self.waiting_max.store(waiting_max, Ordering::Release);
        self.grant();
    }

    /// Requests in flight at most; 0: no limit.
    pub(crate) fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> Count {
        Count::from_word(self.word.load(Ordering::Relaxed))
    }

    /// A place at once.
    pub(crate) fn try_enter(gate: &Arc<Self>) -> Option<Slot> {
        let max = gate.max();
        gate.change(|count| count.entered(max)).then(|| Slot { gate: Arc::clone(gate) })
    }

    /// A place at once, or one in the queue.
    pub(crate) fn enter_or_queue(gate: &Arc<Self>) -> Entry {
        // Counted and seated under one lock: who hands over finds the seat that the count promises.
        let mut seats = gate.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let (max, waiting_max) = (gate.max(), gate.waiting_max.load(Ordering::Relaxed));
        let mut queued = false;
        let changed = gate.change(|count| {
            let entered = count.entered(max);
            queued = entered.is_none();
            entered.or_else(|| count.queued(waiting_max))
        });
        match (changed, queued) {
            (false, _) => Entry::Full,
            (true, false) => Entry::Entered(Slot { gate: Arc::clone(gate) }),
            (true, true) => {
                let seat = Arc::new(Seat::default());
                seats.push_back(Arc::clone(&seat));
                Entry::Queued(Ticket { gate: Arc::clone(gate), seat, is_over: false })
            }
        }
    }

    fn leave(&self) {
        // Every slot counted itself, so the lower half is not 0.
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        if Count::from_word(before).waiting > 0 {
            self.grant();
        }
    }

    /// Hands free places to those that wait.
    fn grant(&self) {
        let max = self.max.load(Ordering::Acquire);
        while self.change(|count| count.granted(max)) {
            let oldest = self.seats.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match oldest {
                Some(seat) => seat.call(),
                // It gave up meanwhile, and its place is free again.
                None => drop(self.word.fetch_sub(1, Ordering::AcqRel)),
            }
        }
    }

    fn give_up(&self, seat: &Arc<Seat>) {
        {
            let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = seats.iter().position(|other| Arc::ptr_eq(other, seat)) {
                seats.remove(at);
                // Where nobody is counted any more, who granted this place finds no seat for it.
                self.change(Count::gave_up);
                return;
            }
        }
        // It was handed over already.
        self.leave();
    }

    fn change(&self, mut step: impl FnMut(Count) -> Option<Count>) -> bool {
        let step = |word| step(Count::from_word(word)).map(Count::to_word);
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

// === impl Ticket ===

impl Future for Ticket {
    type Output = Slot;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        let this = self.get_mut();
        {
            let mut turn = this.seat.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !turn.has_come {
                turn.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        this.is_over = true;
        Poll::Ready(Slot { gate: Arc::clone(&this.gate) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_over {
            self.gate.give_up(&self.seat);
        }
    }
}

// === impl Seat ===

impl Seat {
    fn call(&self) {
        let waker = {
            let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turn.has_come = true;
            turn.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
