use super::*;

fn keyspace(index: usize) -> Keyspace {
    Keyspace::parse(&format!("k{index}")).unwrap()
}

#[test]
fn keyspaces_beyond_the_bound_are_counted_together() {
    let stats = Stats::default();
    for index in 0..KEYSPACES_MAX + 10 {
        stats.row(&keyspace(index)).add(Counter::PrefetchScan, 1);
        stats.row(&keyspace(index)).add(Counter::PrefetchScan, 1);
    }
    let rows: HashMap<_, _> = stats.snapshot().into_iter().collect();
    assert_eq!(rows.len(), KEYSPACES_MAX + 1);
    assert_eq!(rows[&Some(keyspace(0))][Counter::PrefetchScan as usize], 2);
    assert_eq!(rows[&None][Counter::PrefetchScan as usize], 20);
}

#[test]
fn openings_fall_into_buckets() {
    let row = Row::default();
    for (took_us, failed) in [(50, false), (51, true), (60_000, false)] {
        row.opened(Duration::from_micros(took_us), failed);
    }
    let at = |counter: Counter, next: usize| row.0[counter as usize + next].load(Ordering::Relaxed);
    assert_eq!((at(Counter::Rehydrate, 0), at(Counter::RehydrateFail, 0)), (3, 1));
    assert_eq!(at(Counter::RehydrateLatencyUs, 0), 60_101);
    let buckets: Vec<_> = (0..=10).map(|next| at(Counter::LatencyBuckets, next)).collect();
    assert_eq!(buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn waiters_go_up_and_down() {
    let row = Row::default();
    row.add(Counter::SingleflightWaiters, 1);
    row.add(Counter::SingleflightWaiters, 1);
    row.end_wait(true);
    row.end_wait(false);
    let [waiters, timeouts] = [Counter::SingleflightWaiters, Counter::SingleflightWaitTimeout]
        .map(|counter| row.0[counter as usize].load(Ordering::Relaxed));
    assert_eq!((waiters, timeouts), (0, 1));
}
