use super::*;

fn ceilings() -> Settings {
    Settings {
        key_soft_ttl_ms: 900_000,
        key_hard_ttl_ms: 960_000,
        key_uses: 1_000_000,
        dek_hard_ttl_ms: 3_600_000,
        keys: KEYS_MAX,
        bytes: BYTES_MAX,
        warm_keys: 131_072,
        ..Settings::default()
    }
}

#[test]
fn the_baseline_is_the_documents_and_in_range() {
    let baseline = baseline(&ceilings());
    assert_eq!(check(&baseline, &ceilings()), Ok(()));
    assert_eq!((baseline.key_soft_ttl_ms, baseline.key_hard_ttl_ms), (900_000, 960_000));
    assert_eq!((baseline.key_uses, baseline.low_water_uses), (1_000_000, 500));
    assert_eq!((baseline.prefetch_window_ms, baseline.prefetch_jitter_percent), (120_000, 10));
    assert_eq!((baseline.sign_wait_ms, baseline.hard_refresh_ms), (3, 3));
}

#[test]
fn low_pins_give_a_baseline_that_is_in_range_too() {
    for (soft_s, hard_s, uses) in [(1, 1, 1), (30, 20, 3), (900, 10, 700)] {
        let most = Settings {
            key_soft_ttl_ms: soft_s * 1_000,
            key_hard_ttl_ms: hard_s * 1_000,
            key_uses: uses,
            ..ceilings()
        };
        assert_eq!(check(&baseline(&most), &most), Ok(()), "{most:?}");
    }
}

#[test]
fn pins_and_the_machine_set_the_ceilings() {
    let pinned =
        Ceilings { key_soft_s: 1, key_hard_s: 2, key_uses: 3, dek_soft_s: 4, dek_hard_s: 5 };
    let most = super::ceilings(&pinned);
    assert_eq!((most.key_soft_ttl_ms, most.key_hard_ttl_ms), (1_000, 2_000));
    assert_eq!((most.key_uses, most.dek_hard_ttl_ms), (3, 5_000));
    assert!(most.bytes > 0 && most.bytes <= BYTES_MAX);
}

#[test]
fn each_setting_out_of_its_range_is_named_by_its_number() {
    let (most, good) = (ceilings(), baseline(&ceilings()));
    let s = good;
    for (field, bad) in [
        (1, Settings { key_soft_ttl_ms: 0, prefetch_window_ms: 0, ..s }),
        (1, Settings { key_soft_ttl_ms: 900_001, ..s }),
        (1, Settings { key_hard_ttl_ms: 899_999, ..s }),
        (2, Settings { key_hard_ttl_ms: 960_001, ..s }),
        (3, Settings { key_uses: 1_000_001, ..s }),
        (3, Settings { key_uses: 0, low_water_uses: 0, ..s }),
        (4, Settings { dek_hard_ttl_ms: 3_600_001, ..s }),
        (5, Settings { low_water_uses: 500_001, ..s }),
        (6, Settings { prefetch_window_ms: 450_001, ..s }),
        (7, Settings { prefetch_jitter_percent: 51, ..s }),
        (8, Settings { prefetch_in_flight: 4_097, ..s }),
        (9, Settings { prefetch_scan_ms: 999, ..s }),
        (9, Settings { prefetch_scan_ms: 60_001, ..s }),
        (10, Settings { sign_wait_ms: 1, ..s }),
        (10, Settings { sign_wait_ms: 4, ..s }),
        (11, Settings { hard_refresh_ms: 2, ..s }),
        (11, Settings { hard_refresh_ms: 6, ..s }),
        (12, Settings { keys: KEYS_MAX + 1, ..s }),
        (12, Settings { keys: 255, ..s }),
        (13, Settings { bytes: BYTES_MAX + 1, ..s }),
        (13, Settings { bytes: 256 * 2_560 - 1, ..s }),
        (14, Settings { warm_keys: 131_073, ..s }),
        (14, Settings { warm_keys: 0, ..s }),
    ] {
        assert_eq!(check(&bad, &most), Err(field), "{bad:?}");
    }
}
