use super::*;

fn keyspace(index: usize) -> Keyspace {
    Keyspace::parse(&format!("k{index}")).unwrap()
}

#[test]
fn keyspaces_beyond_the_bound_are_counted_together() {
    let stats = Stats::default();
    for index in 0..KEYSPACES_MAX + 10 {
        stats.row(&keyspace(index), true).count(|stats| stats.prefetch_scanned += 1);
        stats.row(&keyspace(index), false).count(|stats| stats.prefetch_scanned += 1);
    }
    let rows = stats.snapshot();
    assert_eq!(rows.len(), KEYSPACES_MAX + 1);
    let of = |name: &str| rows.iter().find(|row| row.keyspace == name).unwrap().prefetch_scanned;
    assert_eq!((of("k0"), of("")), (2, 20));
}

#[test]
fn names_of_which_no_key_was_opened_take_no_rows() {
    let stats = Stats::default();
    for index in 0..2 * KEYSPACES_MAX {
        stats.row(&keyspace(index), false).opened(Duration::ZERO, true);
    }
    stats.row(&keyspace(7), true).opened(Duration::ZERO, false);
    let rows = stats.snapshot();
    let of = |name: &str| rows.iter().find(|row| row.keyspace == name).unwrap().rehydrated;
    assert_eq!((rows.len(), of("k7"), of("")), (2, 1, 2 * KEYSPACES_MAX as u64));
}

#[test]
fn openings_fall_into_buckets() {
    let stats = Stats::default();
    for (took_us, failed) in [(50, false), (51, true), (60_000, false)] {
        stats.row(&keyspace(0), true).opened(Duration::from_micros(took_us), failed);
    }
    let [row] = stats.snapshot().try_into().unwrap();
    assert_eq!((row.rehydrated, row.rehydrate_failed), (3, 1));
    let latency = row.rehydrate_latency_us.unwrap();
    assert_eq!((latency.sum, latency.upper_bounds), (60_101, LATENCY_BOUNDS_US.to_vec()));
    assert_eq!(latency.counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}
