use std::task::{Context, Poll, Waker};

use super::*;

const SETTINGS: Settings = Settings {
    key_soft_ttl_ms: 900_000,
    key_hard_ttl_ms: 960_000,
    key_uses: 1_000_000,
    dek_hard_ttl_ms: 3_600_000,
    low_water_uses: 500,
    prefetch_window_ms: 120_000,
    prefetch_jitter_percent: 10,
    prefetch_in_flight: 2_048,
    prefetch_scan_ms: 1_000,
    sign_wait_ms: 3,
    hard_refresh_ms: 3,
    keys: 1,
    bytes: 1,
    warm_keys: 1,
};
const WARM: Warm = Warm { opened_ms: 0, uses: 1, refreshing: false };

/// The first moment at which a key in use is due.
fn first_due_ms(spread: u8) -> u64 {
    let due = |now_ms: &u64| is_due(&WARM, *now_ms, spread, *now_ms, &SETTINGS);
    (0..900_000).step_by(100).find(due).unwrap()
}

#[test]
fn keys_come_within_the_window_and_its_jitter() {
    assert_eq!(first_due_ms(0), 900_000 - 108_000);
    assert_eq!(first_due_ms(255), 900_000 - 132_000);
    let middle = first_due_ms(128);
    assert!((779_900..=780_000).contains(&middle), "{middle}");
}

#[test]
fn neither_idle_keys_nor_those_being_refreshed_are_due() {
    let at = |used_ms, warm: &Warm| is_due(warm, used_ms, 0, 899_999, &SETTINGS);
    assert!(at(779_999 + 1, &WARM));
    assert!(!at(779_999, &WARM), "not used for two minutes");
    assert!(!at(899_999, &Warm { refreshing: true, ..WARM }));
    let none = Settings { prefetch_window_ms: 0, ..SETTINGS };
    assert!(!is_due(&WARM, 900_000, 0, 900_000, &none));
}

fn name(id: u8) -> KeyName {
    KeyName { keyspace: crate::names::Keyspace::parse("default").unwrap(), key_id: [id; 16] }
}

#[tokio::test]
async fn the_queue_is_bounded_and_gives_every_key_once() {
    let refreshes = Refreshes::default();
    assert!(refreshes.offer(name(1), 2) && refreshes.offer(name(2), 2));
    assert!(!refreshes.offer(name(3), 2) && refreshes.offer(name(3), 3));
    assert!(!refreshes.offer(name(4), 0));
    for id in 1..=3 {
        assert_eq!(refreshes.next().await, name(id));
    }
    let filled = (0..=REFRESHES_MAX).filter(|_| refreshes.offer(name(5), u64::MAX)).count();
    assert_eq!(filled, REFRESHES_MAX);
}

/// A worker that was the first to wait and is busy now does not keep the others from the queue.
#[tokio::test]
async fn a_busy_worker_holds_up_no_refresh() {
    let refreshes = Refreshes::default();
    let mut busy = std::pin::pin!(refreshes.next());
    let mut context = Context::from_waker(Waker::noop());
    assert!(busy.as_mut().poll(&mut context).is_pending(), "and it is not polled again");
    let mut idle = std::pin::pin!(refreshes.next());
    assert!(idle.as_mut().poll(&mut context).is_pending());
    assert!(refreshes.offer(name(1), 2) && refreshes.offer(name(2), 2));
    assert_eq!(idle.as_mut().poll(&mut context), Poll::Ready(name(1)));
    assert_eq!(refreshes.next().await, name(2), "whoever comes next");
    assert!(busy.as_mut().poll(&mut context).is_pending(), "all is done");
}
