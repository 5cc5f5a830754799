use super::*;

const PCR: &str = "11";

fn minimal() -> String {
    let pcr = PCR.repeat(48);
    format!(
        "kms: {{region: us-east-1}}\nenclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', pcr2: '{pcr}'}}]}}\n"
    )
}

/// With one retired image.
fn with_retired(pcr1: &str) -> String {
    let pcr = "22".repeat(48);
    let retired = format!("{{pcr0: '{pcr}', pcr1: '{pcr1}', pcr2: '{pcr}'}}");
    minimal()
        .replace("{measurements:", &format!("{{retiredMeasurements: [{retired}], measurements:"))
}

fn none(_: &str) -> Option<String> {
    None
}

fn errors(text: &str) -> Vec<String> {
    load(text, none).unwrap_err().0
}

#[test]
fn the_sample_file_holds_the_defaults() {
    let sample = include_str!("../../../config/dataplane.yaml");
    let errors = errors(sample);
    let required = ["enclave.measurements", "kms.region"];
    assert_eq!(errors.len(), required.len(), "{errors:?}");
    for (error, path) in errors.iter().zip(required) {
        assert!(error.starts_with(path), "{error}");
    }
    let filled = load(sample, |name| match name {
        "SIGIL_KMS_REGION" => Some("us-east-1".to_owned()),
        "SIGIL_ENCLAVE_MEASUREMENTS_FILE" => Some("/etc/sigil/measurements.json".to_owned()),
        _ => None,
    })
    .unwrap();
    let mut defaults = Config::default();
    defaults.kms.region = "us-east-1".to_owned();
    defaults.enclave.measurements_file = Some("/etc/sigil/measurements.json".into());
    assert_eq!(filled, defaults);
}

#[test]
fn all_errors_are_reported_at_once_with_their_path() {
    let text = minimal()
        + "listeners: {public: 0.0.0.0:80, admin: '1.2.3.4:1'}\nkeyspaces: [UPPER, a, a]\n\
           unlock: {workers: 0}\n";
    let errors = errors(&text);
    for path in
        ["listeners.public", "listeners.admin", "keyspaces[0]", "keyspaces[2]", "unlock.workers"]
    {
        assert!(errors.iter().any(|error| error.starts_with(path)), "{path}: {errors:?}");
    }
    assert_eq!(errors.len(), 5, "{errors:?}");
    assert!(errors[0].contains("no cleartext"), "{errors:?}");
    assert!(errors[1].contains("not authenticated"), "{errors:?}");
}

#[test]
fn unknown_keys_and_wrong_types_are_refused() {
    let text = minimal() + "lisseners: {}\nunlock: {wrokers: 3}\nworkers: many\n";
    let errors = errors(&text);
    for part in ["lisseners: unknown key", "unlock.wrokers: unknown key", "workers: invalid type"] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
    }
    let inner = "kms: {region: r}\nenclave: {measurements: [{pcr0: a, pcr9: b}]}\n";
    assert!(self::errors(inner)[0].contains("pcr9"));
    assert!(self::errors("[1]")[0].contains("must be a map"));
    assert!(self::errors("a: [")[0].contains("not YAML"));
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = minimal() + "unlock: {workers: 4}\n";
    let config = load(&text, |name| match name {
        "SIGIL_UNLOCK_WORKERS" => Some("7".to_owned()),
        "SIGIL_LISTENERS_PUBLIC" => Some("127.0.0.1:1".to_owned()),
        "SIGIL_LISTENERS_ADMIN" => Some("unix:/run/sigil.sock".to_owned()),
        "SIGIL_LISTENERS_TLS_CERTIFICATE_FILE" => Some("/a/tls.crt".to_owned()),
        "SIGIL_LISTENERS_TLS_KEY_FILE" => Some("/a/tls.key".to_owned()),
        _ => None,
    })
    .unwrap();
    assert_eq!(config.listeners.tls.key_file, Some("/a/tls.key".into()));
    assert_eq!(config.unlock.workers, 7);
    assert_eq!(config.listeners.admin, ListenAddress::Unix("/run/sigil.sock".into()));
}

#[test]
fn what_would_weaken_trust_or_miss_kms_is_refused() {
    let pcr = PCR.repeat(48);
    let zero = "00".repeat(48);
    let cases = [
        (minimal().replace(&pcr, &zero), "debug enclave"),
        (with_retired(&zero), "enclave.retiredMeasurements[0].pcr1: zeros"),
        (with_retired("0a"), "enclave.retiredMeasurements[0].pcr1: expected 96 hex digits"),
        (minimal().replace("us-east-1", "''"), "kms.region"),
        (
            minimal().replace(
                "us-east-1",
                "us-east-1, keyArn: 'arn:aws:kms:eu-west-1:111122223333:key/x'",
            ),
            "kms.keyArn",
        ),
        (
            minimal().replace(
                "us-east-1",
                "us-east-1, keyArn: 'arn:aws:kms:us-east-1:111122223333:alias/x'",
            ),
            "kms.keyArn",
        ),
        (minimal().replace("us-east-1", "us-east-1, address: localhost"), "kms.address"),
        (minimal() + "store: {embedded: {path: relative}}\n", "store.embedded.path"),
    ];
    for (text, path) in cases {
        assert!(errors(&text).iter().any(|error| error.contains(path)), "{path}");
    }
    let arn = "us-east-1, keyArn: 'arn:aws:kms:us-east-1:111122223333:key/x', address: 'h:443'";
    load(&minimal().replace("us-east-1", arn), none).unwrap();
    let retired = load(&with_retired(&pcr), none).unwrap().enclave.retired_measurements;
    assert_eq!((retired.len(), &retired[0].pcr1), (1, &pcr));
}

#[test]
fn cache_settings_are_optional_and_checked_as_far_as_can_be_known_without_the_enclave() {
    let cache = |settings: &str| minimal() + &format!("cache: {{{settings}}}\n");
    assert_eq!(load(&minimal(), none).unwrap().cache, Cache::default());
    assert_eq!(load(&(minimal() + "cache: null\n"), none).unwrap().cache, Cache::default());
    let some = load(&cache("signWaitMs: 2, keyUses: 1000, lowWaterUses: 500"), |name| {
        (name == "SIGIL_CACHE_PREFETCH_IN_FLIGHT").then(|| "0".to_owned())
    });
    let expected = Cache {
        sign_wait_ms: Some(2),
        key_uses: Some(1_000),
        low_water_uses: Some(500),
        prefetch_in_flight: Some(0),
        ..Cache::default()
    };
    assert_eq!(some.unwrap().cache, expected);
    for (settings, error) in [
        ("keySoftMs: 1", "cache.keySoftMs: unknown key"),
        ("signWaitMs: 4", "cache.signWaitMs: 4 is not in 2..=3"),
        ("signWaitMs: 1", "cache.signWaitMs: 1 is not in 2..=3"),
        ("hardRefreshMs: 6", "cache.hardRefreshMs: 6 is not in 3..=5"),
        ("keySoftTtlMs: 0", "cache.keySoftTtlMs: 0 is not in 1..="),
        ("keySoftTtlMs: 9, keyHardTtlMs: 8", "1..=8; it is at most keyHardTtlMs"),
        ("keySoftTtlMs: 9, prefetchWindowMs: 5", "0..=4; it is at most half of keySoftTtlMs"),
        ("keyUses: 9, lowWaterUses: 5", "0..=4; it is at most half of keyUses"),
        ("prefetchJitterPercent: 51", "cache.prefetchJitterPercent: 51"),
        ("prefetchScanMs: 999", "cache.prefetchScanMs: 999"),
        ("prefetchInFlight: 4097", "cache.prefetchInFlight: 4097"),
        ("keys: 255", "cache.keys: 255"),
        ("warmKeys: 131073", "cache.warmKeys: 131073"),
        ("bytes: 655359", "cache.bytes: 655359"),
        ("keyUses: -1", "cache"),
    ] {
        let errors = errors(&cache(settings));
        assert!(errors.len() == 1 && errors[0].contains(error), "{settings}: {errors:?}");
    }
}
