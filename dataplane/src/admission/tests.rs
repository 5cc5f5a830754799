//! The gate against a model, and what callers of a limiter meet.

use std::sync::atomic::AtomicU32;
use std::task::Poll;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::gate::Ticket;
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter,
    Leave(usize),
    GiveUp(usize),
    Set(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enter),
        3 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::GiveUp),
        1 => (1..6_u32).prop_map(Step::Set),
    ]
}

proptest! {
    #[test]
    fn places_are_handed_over_in_turn_and_none_is_lost(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        const WAITING_MAX: u32 = 4;
        let (gate, mut max) = (Arc::new(Gate::new()), 3_u32);
        gate.set(max, WAITING_MAX);
        let (mut slots, mut tickets): (Vec<gate::Slot>, Vec<Ticket>) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Enter => match Gate::enter_or_queue(&gate) {
                    Entry::Entered(slot) => {
                        prop_assert!(tickets.is_empty(), "somebody was overtaken");
                        slots.push(slot);
                        prop_assert!(slots.len() <= max as usize);
                    }
                    Entry::Queued(ticket) => {
                        prop_assert!(slots.len() >= max as usize || !tickets.is_empty());
                        tickets.push(ticket);
                    }
                    Entry::Full => prop_assert_eq!(tickets.len(), WAITING_MAX as usize),
                },
                Step::Leave(at) if !slots.is_empty() => drop(slots.remove(at % slots.len())),
                Step::GiveUp(at) if !tickets.is_empty() => drop(tickets.remove(at % tickets.len())),
                Step::Set(to) => {
                    max = to;
                    gate.set(max, WAITING_MAX);
                }
                Step::Leave(_) | Step::GiveUp(_) => {}
            }
            // Whose turn has come are the oldest of those that wait.
            while let Some(ticket) = tickets.first_mut() {
                let Some(slot) = ticket.now_or_never() else { break };
                drop(tickets.remove(0));
                slots.push(slot);
                prop_assert!(slots.len() <= max as usize);
            }
            for ticket in &mut tickets {
                prop_assert!(ticket.now_or_never().is_none(), "out of turn");
            }
            prop_assert!(tickets.is_empty() || slots.len() >= max as usize, "a place lies idle");
            let count = gate.count();
            prop_assert_eq!((count.in_flight as usize, count.waiting as usize),
                (slots.len(), tickets.len()));
        }
    }
}

fn limiter(max_concurrent: u32, mode: AdmissionMode, wait_timeout_ms: u64) -> Arc<Limiter> {
    let waiting_max = 1_024;
    Arc::new(Limiter::new(&Admission { max_concurrent, mode, wait_timeout_ms, waiting_max }))
}

/// Ten at once, each of which takes 10 ms: how many were answered, and how many at most at a time.
async fn ten_at_once(limiter: &Arc<Limiter>) -> (usize, u32) {
    let most = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let (limiter, most) = (Arc::clone(limiter), Arc::clone(&most));
        tasks.spawn(async move {
            let _slot = limiter.enter().await?;
            most.fetch_max(limiter.in_flight(), Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
            Ok::<_, Error>(())
        });
    }
    let results = tasks.join_all().await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!((error.status(), error.retry_after_ms.is_some()), (429, true));
    }
    (results.iter().filter(|result| result.is_ok()).count(), most.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn five_of_ten_are_answered_and_with_a_queue_all() {
    use AdmissionMode::{Try, WaitCancellable, WaitWithTimeout};
    for (mode, wait_ms, answered) in [
        (Try, 100, 5),
        (WaitWithTimeout, 100, 10),
        // The others' turn comes after 10 ms.
        (WaitWithTimeout, 5, 5),
        (WaitCancellable, 0, 10),
    ] {
        let limiter = limiter(5, mode, wait_ms);
        assert_eq!(limiter.free(), Some(5));
        assert_eq!(ten_at_once(&limiter).await, (answered, 5), "{mode:?} {wait_ms}");
        assert_eq!((limiter.free(), limiter.waiting()), (Some(5), 0));
    }
    let unlimited = limiter(0, Try, 0);
    assert_eq!((ten_at_once(&unlimited).await.0, unlimited.free()), (10, None));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_up_its_turn() {
    let limiter = limiter(1, AdmissionMode::WaitCancellable, 0);
    let held = limiter.enter().await.unwrap();
    let mut gone = Box::pin(limiter.enter());
    assert!(matches!(futures_util::poll!(gone.as_mut()), Poll::Pending));
    let mut next = Box::pin(limiter.enter());
    assert!(matches!(futures_util::poll!(next.as_mut()), Poll::Pending));
    assert_eq!(limiter.waiting(), 2);
    drop(gone);
    drop(held);
    drop(next.await.unwrap());
    assert_eq!((limiter.in_flight(), limiter.waiting()), (0, 0));
}

/// Ten times as many as can be served: what is answered is what could be answered without them.
#[tokio::test(start_paused = true)]
async fn ten_times_the_limit_takes_nothing_from_what_is_answered() {
    const PLACES: u32 = 10;
    const ROUNDS: u64 = 1_000;
    for mode in [AdmissionMode::Try, AdmissionMode::WaitWithTimeout] {
        let limiter = limiter(PLACES, mode, 20);
        let mut tasks = JoinSet::new();
        let started = Instant::now();
        // A place serves one request in 10 ms, so ten places serve one each ms; ten come.
        for _ in 0..ROUNDS {
            for _ in 0..10 {
                let limiter = Arc::clone(&limiter);
                tasks.spawn(async move {
                    let _slot = limiter.enter().await.ok()?;
                    assert!(limiter.in_flight() <= PLACES);
                    sleep(Duration::from_millis(10)).await;
                    Some(started.elapsed() <= Duration::from_millis(ROUNDS))
                });
            }
            sleep(Duration::from_millis(1)).await;
        }
        let answers = tasks.join_all().await;
        let in_time = answers.iter().filter(|answer| **answer == Some(true)).count() as u64;
        assert!(in_time >= ROUNDS * 9 / 10, "{mode:?}: {in_time} of {ROUNDS}");
        assert!(in_time <= ROUNDS, "{mode:?}: {in_time} of {ROUNDS}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_raised_lets_those_in_that_wait() {
    let limiter = limiter(1, AdmissionMode::WaitCancellable, 0);
    let held = limiter.enter().await.unwrap();
    let mut second = Box::pin(limiter.enter());
    assert!(matches!(futures_util::poll!(second.as_mut()), Poll::Pending));
    let more = Admission { max_concurrent: 2, ..Admission::default() };
    limiter.set(&more);
    let second = second.await.unwrap();
    assert_eq!((limiter.in_flight(), limiter.free()), (2, Some(0)));
    limiter.set(&Admission { max_concurrent: 1, ..more });
    assert_eq!(limiter.enter().await.unwrap_err().code, Code::Overloaded);
    drop(held);
    assert_eq!(limiter.enter().await.unwrap_err().code, Code::Overloaded, "one is still there");
    drop(second);
    drop(limiter.enter().await.unwrap());
}
