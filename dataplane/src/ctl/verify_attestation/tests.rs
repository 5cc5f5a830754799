use serde_json::{Value, json};
use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::process;
use sigil_verifier::UserData;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.der"), test_root_der()).unwrap();
        Self(folder)
    }

    fn args(&self) -> Args {
        Args {
            file: self.0.path().join("document"),
            at: None,
            at_document_time: true,
            max_age: None,
            root: Some(self.0.path().join("root.der")),
            measurements: Vec::new(),
            nonce: None,
            allow_debug: false,
        }
    }
}

fn document() -> TestDocument {
    let mut document = TestDocument::new(NOW_MS, process(b"executable", b"pins"));
    let user_data = UserData::Live { boot_id: [9; 16] }.encode();
    document.user_data(Some(&user_data)).nonce(Some(b"nonce"));
    document
}

fn sign(document: &TestDocument) -> Vec<u8> {
    let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
    document.sign(&chain).unwrap()
}

/// The report as JSON, or what failed.
fn name(args: &Args, bytes: &[u8]) -> Result<Value, String> {
    std::fs::write(&args.file, bytes).unwrap();
    let json = match report(args) {
        Ok(report) => return Ok(serde_json::to_value(report).unwrap()),
        Err(report) => serde_json::to_value(report).unwrap(),
    };
    assert_eq!(json["verified"], false);
    Err(json["failedCheck"].as_str().unwrap().to_owned())
}

fn refused(args: &Args, bytes: &[u8]) -> String {
    name(args, bytes).unwrap_err()
}

#[test]
fn a_good_document_is_shown_with_all_that_was_checked() {
    let bench = Bench::new();
    let bytes = sign(&document());
    let report = name(&bench.args(), &bytes).unwrap();
    assert_eq!(report["verified"], true);
    assert_eq!(report["trusted"], false, "the test root is not AWS'");
    assert_eq!(report["chain"]["certificates"], 5);
    assert_eq!(report["document"]["timestampMs"], NOW_MS);
    assert_eq!(report["document"]["timestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(report["document"]["pcrs"].as_object().unwrap().len(), 16, "zeros are shown");
    assert_eq!(report["document"]["sigil"], json!({ "kind": "live", "bootId": "09".repeat(16) }));
    assert_eq!(report["document"]["nonce"], const_hex::encode("nonce"));
    assert_eq!(report["checks"], json!([&DOCUMENT_CHECKS[..], &["debug"]].concat()));
    let nonce = |nonce: &[u8]| Args { nonce: Some(Hex(nonce.to_vec())), ..bench.args() };
    let checked = name(&nonce(b"nonce"), &bytes).unwrap();
    assert!(checked["checks"].as_array().unwrap().contains(&"nonce".into()));
    for wrong in [&b"nonc"[..], b"nonce\0", b"Nonce"] {
        assert_eq!(refused(&nonce(wrong), &bytes), "nonce");
    }
    let without = sign(document().nonce(None));
    assert_eq!(refused(&nonce(b"nonce"), &without), "nonce");
}

#[test]
fn time_and_age_are_judged() {
    let bench = Bench::new();
    let bytes = sign(&document());
    let at = |ms| Args { at: Some(Time(ms)), at_document_time: false, ..bench.args() };
    assert!(name(&at(NOW_MS), &bytes).is_ok());
    assert_eq!(refused(&at(NOW_MS + 4 * 3_600_000), &bytes), "not-after");
    assert_eq!(refused(&at(NOW_MS - 31_000), &bytes), "not-before");
    let aged = |ms, max_age| Args { max_age: Some(max_age), ..at(ms) };
    assert!(name(&aged(NOW_MS + 60_000, 60), &bytes).is_ok());
    assert_eq!(refused(&aged(NOW_MS + 60_001, 60), &bytes), "age");
    // A leaf that began an hour before its document.
    let early = Validity::aws(NOW_MS - 3_600_000);
    let early = TestRoot::committed().unwrap().issue(early).unwrap();
    let early = document().sign(&early).unwrap();
    assert!(name(&aged(NOW_MS - 30_000, 0), &early).is_ok());
    assert_eq!(refused(&aged(NOW_MS - 30_001, 0), &early), "future");
    assert!(name(&at(NOW_MS - 30_001), &early).is_ok(), "only an age asks");
}

#[test]
fn root_debug_and_images_are_judged() {
    let bench = Bench::new();
    let bytes = sign(&document());
    assert_eq!(refused(&Args { root: None, ..bench.args() }, &bytes), "root");
    assert_eq!(refused(&Args { root: Some("absent".into()), ..bench.args() }, &bytes), "root-file");
    let absent = Args { measurements: vec!["absent".into()], ..bench.args() };
    assert_eq!(refused(&absent, &bytes), "measurements-file");
    let debug = sign(document().pcrs(&[(3, [1; 48])]));
    assert_eq!(refused(&bench.args(), &debug), "debug");
    let shown = name(&Args { allow_debug: true, ..bench.args() }, &debug).unwrap();
    assert_eq!((&shown["debug"], &shown["trusted"]), (&true.into(), &false.into()));
    assert_eq!(shown["checks"], json!(DOCUMENT_CHECKS), "the check that was not made is not named");
    let path = bench.0.path().join("measurements.json");
    for (executable, good) in [(&b"executable"[..], true), (b"other", false)] {
        let pcrs = process(executable, b"pins");
        let json = json!({
            "formatVersion": 1, "kind": "eif", "arch": "x86_64", "app": "demo",
            "pcr0": const_hex::encode(pcrs.pcr0), "pcr1": const_hex::encode(pcrs.pcr1),
            "pcr2": const_hex::encode(pcrs.pcr2), "pinsSha384": "00".repeat(48),
            "insecure": false, "kms": [],
        });
        std::fs::write(&path, json.to_string()).unwrap();
        let judged = name(&Args { measurements: vec![path.clone()], ..bench.args() }, &bytes);
        match judged {
            Ok(_) => assert!(good),
            Err(check) => assert_eq!((good, check.as_str()), (false, "measurements")),
        }
    }
}

#[test]
fn a_refused_document_is_still_shown_as_unverified() {
    let bench = Bench::new();
    let mut bytes = sign(&document());
    *bytes.last_mut().unwrap() ^= 1;
    let shown = |bytes: &[u8]| {
        std::fs::write(bench.args().file, bytes).unwrap();
        serde_json::to_value(report(&bench.args()).err()).unwrap()
    };
    let report = shown(&bytes);
    assert_eq!(report["failedCheck"], "signature");
    assert_eq!(report["unverified"]["timestampMs"], NOW_MS);
    assert_eq!(shown(&[0x84]).get("unverified"), None);
}

#[test]
fn text_is_not_guessed_at() {
    let bench = Bench::new();
    for text in ["hEShATgioFkRYL9p\n", "8444a1013822", "{}", " "] {
        assert_eq!(refused(&bench.args(), text.as_bytes()), "file", "{text}");
    }
    assert_eq!(refused(&bench.args(), b""), "cose");
    let long = vec![0x84; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
    assert_eq!(refused(&bench.args(), &long), "file");
    assert_eq!(refused(&bench.args(), &long[1..]), "size");
}

#[test]
fn times_are_rfc_3339_or_milliseconds() {
    for (text, ms) in [
        ("1800000000000", 1_800_000_000_000),
        ("0", 0),
        ("2027-01-15T08:00:00Z", 1_800_000_000_000),
        ("2027-01-15T09:00:00.5+01:00", 1_800_000_000_500),
        ("1970-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(text.parse(), Ok(Time(ms)), "{text}");
    }
    for text in [
        "2027-01-15",
        "2027-01-15T08:00:00",
        "now",
        "",
        "-1",
        "1969-12-31T23:59:59Z",
        "1e3",
        "99999999999999999999",
    ] {
        assert!(text.parse::<Time>().is_err(), "{text}");
    }
    assert_eq!(rfc3339(u64::MAX), None);
}
