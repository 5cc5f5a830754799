//! The verifiers as an auditor runs them: exit status and standard output, byte for byte.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What a run gave.
struct Run {
    status: Option<i32>,
    out: String,
}

fn run(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"))
        .arg("ctl")
        .args(arguments)
        .output()
        .unwrap();
    Run { status: output.status.code(), out: String::from_utf8(output.stdout).unwrap() }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn document(name: &str) -> String {
    folder("../enclave/attestation/testdata").join(name).to_str().unwrap().to_owned()
}

const TURNKEY: &str = "01-turnkey-rust-sdk-provisioning-2026-06.cose";
const DEBUG: &str = "04-anjuna-full-debug-2024-01.cose";
const EVERVAULT: &str = "06-evervault-prod-pcr8-nonce256-2022-10.cose";
const QEMU: &str = "qemu-unsigned.cbor";
const AT_DOCUMENT: &str = "--at-document-time";

/// What the key of `keys/` was asked for, and has signed.
const CHALLENGE: &str = "c0ffee51617172";
const DIGEST: &str = "3f5f06e78bb0b2a7ca6b8a20473d39825a8350cd6981ab92a043297fbbb9dbd1";

/// The whole report on each document that we have, as it is printed.
#[test]
fn reports_on_real_documents_are_these_bytes() {
    for (file, options, status, report) in [
        (TURNKEY, &[AT_DOCUMENT][..], 0, "turnkey.json"),
        (EVERVAULT, &[AT_DOCUMENT], 0, "evervault.json"),
        (DEBUG, &[AT_DOCUMENT], 1, "debug.json"),
        (DEBUG, &[AT_DOCUMENT, "--allow-debug"], 0, "debug-allowed.json"),
        (QEMU, &[AT_DOCUMENT], 1, "qemu.json"),
        (TURNKEY, &["--at", "2026-06-30T05:00:00Z"], 1, "turnkey-expired.json"),
        (EVERVAULT, &["--at", "1665651482136", "--max-age", "0"], 0, "evervault-at.json"),
    ] {
        let run = run(&[&["verify-attestation", &document(file)], options].concat());
        let expected = folder("tests/ctl/reports").join(report);
        let expected = std::fs::read_to_string(expected).unwrap_or_default();
        assert_eq!(run.out, expected, "{report}");
        assert_eq!(run.status, Some(status), "{report}");
    }
}

/// The whole report on a key's two statements, and on one that another challenge was asked of; see
/// `keys/PROVENANCE.md`.
#[test]
fn reports_on_keys_are_these_bytes() {
    let root = folder("../enclave/insecure/testdata/root.der");
    let key = |file: &str| folder("tests/ctl/keys").join(file).to_str().unwrap().to_owned();
    let signature = std::fs::read(key("signature.json")).unwrap();
    let signature: Value = serde_json::from_slice(&signature).unwrap();
    let signature = signature["signature"].as_str().unwrap();
    let by_key = ["--challenge", CHALLENGE, "--digest", DIGEST, "--signature", signature];
    for (file, options, status, report) in [
        ("created.json", &by_key[..], 0, "created.json"),
        (
            "possession.json",
            &["--challenge", CHALLENGE, "--keyspace", "default"],
            0,
            "possession.json",
        ),
        ("created.json", &["--challenge", "c0ffee51617173"], 1, "created-challenge.json"),
    ] {
        let (file, measurements) = (key(file), key("measurements.json"));
        let root = root.to_str().unwrap();
        let given = ["verify-key", &file, "--root", root, "--measurements", &measurements];
        let run = run(&[&given, options].concat());
        let expected = folder("tests/ctl/reports").join(report);
        let expected = std::fs::read_to_string(expected).unwrap_or_default();
        assert_eq!(run.out, expected, "{report}");
        assert_eq!(run.status, Some(status), "{report}");
    }
}

/// Status 1 and the name of the check; nothing else is needed to know why.
#[test]
fn every_refusal_is_status_1_and_names_its_check() {
    let turnkey = document(TURNKEY);
    let bytes = std::fs::read(&turnkey).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let changed = write("changed", &changed);
    let base64 = write("base64", STANDARD.encode(&bytes).as_bytes());
    let cut = write("cut", &bytes[..bytes.len() - 1]);
    let longer = write("longer", &[&bytes[..], &[0]].concat());
    let root = folder("../enclave/insecure/testdata/root.der").to_str().unwrap().to_owned();
    for (file, options, check) in [
        (turnkey.as_str(), &[][..], "not-after"),
        (&turnkey, &["--at", "2026-06-01T00:00:00Z"], "not-before"),
        (&turnkey, &[AT_DOCUMENT, "--nonce", "00"], "nonce"),
        (&document(EVERVAULT), &[AT_DOCUMENT, "--nonce", "00"], "nonce"),
        (&turnkey, &[AT_DOCUMENT, "--root", &root], "root"),
        (&turnkey, &[AT_DOCUMENT, "--root", &changed], "root-file"),
        (&turnkey, &[AT_DOCUMENT, "--measurements", "absent"], "measurements-file"),
        (&turnkey, &["--at", "2026-06-30T01:00:00Z", "--max-age", "60"], "age"),
        (&document(DEBUG), &[AT_DOCUMENT], "debug"),
        (&document(QEMU), &[AT_DOCUMENT], "algorithm"),
        (&changed, &[AT_DOCUMENT], "signature"),
        (&base64, &[AT_DOCUMENT], "file"),
        (&cut, &[AT_DOCUMENT], "cose"),
        (&longer, &[AT_DOCUMENT], "trailing-bytes"),
        ("absent", &[AT_DOCUMENT], "file"),
    ] {
        let run = run(&[&["verify-attestation", file], options].concat());
        let report: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(run.status, Some(1), "{check}");
        assert_eq!((&report["verified"], &report["failedCheck"]), (&false.into(), &check.into()));
        assert!(!report["detail"].as_str().unwrap().is_empty(), "{check}");
    }
    let run = run(&["verify-key", "absent", "--measurements", "absent"]);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.status, &report["failedCheck"]), (Some(1), &"file".into()));
}

/// The same root in the form that people keep, and a nonce in another spelling.
#[test]
fn a_root_may_be_pem_and_a_nonce_have_0x() {
    let scratch = tempfile::tempdir().unwrap();
    let der = std::fs::read(folder("../enclave/attestation/src/aws_root_g1.der")).unwrap();
    let base64 = STANDARD.encode(&der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    let path = scratch.path().join("root.pem");
    std::fs::write(&path, pem).unwrap();
    let evervault = document(EVERVAULT);
    let own = run(&["verify-attestation", &evervault, AT_DOCUMENT]);
    let root = path.to_str().unwrap();
    let given = run(&["verify-attestation", &evervault, AT_DOCUMENT, "--root", root]);
    assert_eq!((given.status, &given.out), (Some(0), &own.out));
    let report: Value = serde_json::from_str(&own.out).unwrap();
    let nonce = report["document"]["nonce"].as_str().unwrap();
    for nonce in [nonce.to_owned(), format!("0x{}", nonce.to_uppercase())] {
        let run = run(&["verify-attestation", &evervault, AT_DOCUMENT, "--nonce", &nonce]);
        assert_eq!(run.status, Some(0), "{nonce}");
        assert!(run.out.contains("\"nonce\"\n  ],"), "the last check: {}", run.out);
    }
}

#[test]
fn a_wrong_command_line_is_status_64_and_prints_no_report() {
    let turnkey = document(TURNKEY);
    let key = ["verify-key", "key.json"];
    let attestation = ["verify-attestation", &turnkey];
    for (command, options) in [
        (attestation, &["--at", "yesterday"][..]),
        (attestation, &["--at", "2026-06-30T01:00:00"]),
        (attestation, &["--at", "1", AT_DOCUMENT]),
        (attestation, &["--max-age", "1", AT_DOCUMENT]),
        (attestation, &["--nonce", "zz"]),
        (attestation, &["--nonce", ""]),
        (attestation, &["--unknown"]),
        (attestation, &["another"]),
        (key, &[]),
        (key, &["--measurements", "m", "--challenge", "zz"]),
        (key, &["--measurements", "m", "--digest", &"00".repeat(32)]),
        (key, &["--measurements", "m", "--digest", "00", "--signature", &"00".repeat(64)]),
        (key, &["--measurements", "m", "--digest", &"00".repeat(32), "--signature", "00"]),
    ] {
        let run = run(&[&command, options].concat());
        assert_eq!((run.status, run.out.as_str()), (Some(64), ""), "{options:?}");
    }
    assert_eq!(run(&["verify-attestation"]).status, Some(64));
    assert_eq!(run(&["verify-attestation", "--help"]).status, Some(0));
}
