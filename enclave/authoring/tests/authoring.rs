//! What a person writes (pins.yaml) and reads (measurements.json).
#![allow(clippy::unwrap_used, reason = "a test")]

use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::{Ceilings, VerifyMode};
use sigil_image_authoring::eif::Arch;
use sigil_image_authoring::image::{self, Program};
use sigil_image_authoring::measurements::Measurements;
use sigil_image_authoring::pins_yaml;

const YAML: &str = r#"
app: sigil-test
keyspaces:
  - prefix: ""
    kmsKeyArns: ["arn:aws:kms:us-east-1:111122223333:key/a"]
    region: us-east-1
    host: kms.us-east-1.amazonaws.com
tlsRoots: [tls.der]
attestationRoot: attestation.der
ceilings: {dekHardSeconds: 7200}
parentCid: 3
insecure: true
"#;

fn read(yaml: &str) -> Result<Pins, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.der"), [1, 2]).unwrap();
    std::fs::write(folder.path().join("attestation.der"), [3]).unwrap();
    let path = folder.path().join("pins.yaml");
    std::fs::write(&path, yaml).unwrap();
    pins_yaml::read(&path).map_err(|error| error.to_string())
}

#[test]
fn what_is_left_out_takes_the_baseline() {
    let pins = read(YAML).unwrap();
    assert_eq!(pins.ceilings, Ceilings { dek_hard_s: 7_200, ..Ceilings::default() });
    assert_eq!(pins.verify_mode, VerifyMode::BatchSample);
    assert_eq!(pins.tls_roots, [[1, 2]]);
    assert_eq!(read(&format!("{YAML}verifyMode: full")).unwrap().verify_mode, VerifyMode::Full);
}

#[test]
fn errors_name_the_field_and_the_file() {
    for (yaml, expected) in [
        (format!("{YAML}colour: red"), "colour"),
        (YAML.replace("parentCid: 3", ""), "parentCid"),
        (YAML.replace("tls.der", "absent.der"), "absent.der"),
        (YAML.replace("sigil-test", "Sigil"), "app"),
        (format!("{YAML}verifyMode: off"), "verifyMode"),
        (YAML.replace("7200", "1"), "ceilings.dekSoftSeconds"),
    ] {
        let error = read(&yaml).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn measurements_are_stable_text() {
    let pins = read(YAML).unwrap().encode().unwrap();
    let measured = Measurements::of_process(b"code", &pins).unwrap();
    let text = measured.to_json().unwrap();
    assert_eq!(Measurements::from_json(&text).unwrap(), measured);
    let keys: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("  \"")?.split_once("\":").map(|(key, _)| key))
        .collect();
    let expected = [
        "formatVersion",
        "kind",
        "arch",
        "app",
        "pcr0",
        "pcr1",
        "pcr2",
        "pcr3",
        "pinsSha384",
        "insecure",
        "kms",
    ];
    assert_eq!(keys, expected);
    assert!(text.ends_with("}\n"));
    for (good, bad) in [
        ("\"formatVersion\": 1", "\"formatVersion\": 2"),
        ("\"insecure\"", "\"insecurely\""),
        ("\"pcr0\": \"", "\"pcr0\": \"0"),
    ] {
        assert!(Measurements::from_json(&text.replace(good, bad)).is_err(), "{bad}");
    }
}

#[test]
fn measurements_of_an_image_name_its_kernel_and_no_role() {
    let pins = read(&YAML.replace("insecure: true", "insecure: false")).unwrap();
    let base = image::base(Arch::X86_64, b"kernel", b"code", Program::Production).unwrap();
    let text = image::pin(&base, &pins).unwrap().measurements.to_json().unwrap();
    assert_eq!(Measurements::from_json(&text).unwrap().to_json().unwrap(), text);
    let at = |key: &str| text.find(&format!("\n  \"{key}\": ")).unwrap();
    assert!(at("pcr2") < at("kernelSha256") && at("kernelSha256") < at("pinsSha384"), "{text}");
    assert!(text.contains("\"kind\": \"eif\"") && !text.contains("pcr3"), "{text}");
    let short = text.replace("\"kernelSha256\": \"", "\"kernelSha256\": \"0");
    let error = Measurements::from_json(&short).unwrap_err().to_string();
    assert!(error.contains("64 hex digits"), "{error}");
    let role = format!("\"pcr3\": \"{}\",\n  \"pinsSha384\"", "0a".repeat(48));
    let error = Measurements::from_json(&text.replace("\"pinsSha384\"", &role)).unwrap_err();
    assert!(error.to_string().contains("pcr3: an image file has none"), "{error}");
}

#[test]
fn the_sample_in_config_is_read_up_to_its_own_tls_root() {
    let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let folder = tempfile::tempdir().unwrap();
    for file in ["pins.yaml", "aws-nitro-root-g1.pem"] {
        std::fs::copy(config.join(file), folder.path().join(file)).unwrap();
    }
    let sample = folder.path().join("pins.yaml");
    let error = pins_yaml::read(&sample).unwrap_err().to_string();
    assert!(error.contains("tlsRoots") && error.contains("AmazonRootCA1.pem"), "{error}");
    std::fs::write(folder.path().join("AmazonRootCA1.pem"), [1, 2]).unwrap();
    let pins = pins_yaml::read(&sample).unwrap();
    assert_eq!(pins.ceilings, Ceilings::default());
    assert!(!pins.insecure && pins.encode().is_ok());
}
