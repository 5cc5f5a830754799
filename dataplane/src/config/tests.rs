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
    assert!(errors[0].contains("not authenticated"), "{errors:?}");
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
        "SIGIL_LISTENERS_PUBLIC" => Some("unix:/run/sigil.sock".to_owned()),
        _ => None,
    })
    .unwrap();
    assert_eq!(config.unlock.workers, 7);
    assert_eq!(config.listeners.public, ListenAddress::Unix("/run/sigil.sock".into()));
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
