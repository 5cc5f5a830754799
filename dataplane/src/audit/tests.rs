use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::*;

/// For a machine that is busy with other builds; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(30);

fn trail(path: &Path) -> (AuditTrail, Metrics) {
    let metrics = Metrics::new();
    let settings = Settings { output: AuditOutput::File(path.to_owned()) };
    (AuditTrail::start(&settings, &metrics).unwrap(), metrics)
}

fn signed(log: &AuditLog, request_id: &str) {
    log.request(&Entry {
        request_id,
        caller: "serviceAccount:shop/checkout",
        verb: "sign",
        keyspace: Some("payments"),
        key_id: Some("k1aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        digest_hash: Some("00112233445566778899aabbccddeeff"),
        outcome: "OK",
        unlock_request_id: None,
    });
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes until one found no room; gives how many were written before.
fn fill(log: &AuditLog, metrics: &Metrics) -> u64 {
    let mut written = 0;
    while metrics.audit_dropped.get() == 0 {
        signed(log, "r");
        written += 1;
        assert!(written < 1_000_000, "it has no bound");
    }
    written - 1
}

#[test]
fn who_did_what_is_a_line_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (trail, _) = trail(&path);
    let (one, other) = (trail.log(), trail.log());
    signed(&one, "r-1");
    other.request(&Entry {
        request_id: "r-2",
        caller: "cn:Ops \"night\"\u{e9}\n",
        verb: "create",
        keyspace: None,
        key_id: None,
        digest_hash: None,
        outcome: "PERMISSION_DENIED",
        unlock_request_id: Some("u-7"),
    });
    other.unlock(&UnlockCall {
        kms_key_arn: "arn:aws:kms:eu-west-1:1:key/k",
        kms_op: "Decrypt",
        attestation_hash: "aa",
        dek_id: "bb",
        keyspace: "payments",
        signing_key_id: None,
        unlock_request_id: "u-7",
        result: "ok",
    });
    trail.stop(PATIENCE);
    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(line["stream"], "audit");
        assert!(line["timeMs"].as_u64().unwrap() > 1_700_000_000_000);
    }
    let of = |id: &str| lines.iter().find(|line| line["requestId"] == id).unwrap();
    assert_eq!(of("r-1")["keyID"], "k1aaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_eq!(of("r-1")["digestHash"], "00112233445566778899aabbccddeeff");
    assert_eq!((&of("r-1")["outcome"], of("r-1").get("unlockRequestId")), (&"OK".into(), None));
    assert_eq!(of("r-2")["caller"], "cn:Ops \"night\"\u{e9}\n");
    assert_eq!((of("r-2").get("keyspace"), &of("r-2")["unlockRequestId"]), (None, &"u-7".into()));
    let unlock = lines.iter().find(|line| line["event"] == "unlock_audit").unwrap();
    for (field, value) in [
        ("keyID", "arn:aws:kms:eu-west-1:1:key/k"),
        ("kms_op", "Decrypt"),
        ("attestation_hash", "aa"),
        ("dek_id", "bb"),
        ("unlock_request_id", "u-7"),
    ] {
        assert_eq!(unlock[field], value);
    }
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up_and_the_gap_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (trail, metrics) = trail(&path);
    let log = trail.log();
    let before = fill(&log, &metrics);
    assert!(before > 1_000, "{before}");
    // Somebody comes and reads: all that was kept, then how many are missing.
    let reader = BufReader::new(File::open(&path).unwrap());
    let mut read = 0;
    for line in reader.lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["event"] == "gap" {
            assert_eq!(line["dropped"], metrics.audit_dropped.get());
            break;
        }
        read += 1;
    }
    assert_eq!(read, before);
}

#[test]
fn a_full_disk_holds_nobody_up() {
    let (trail, metrics) = trail(Path::new("/dev/full"));
    let log = trail.log();
    assert!(fill(&log, &metrics) > 1_000);
    assert!(metrics.encode().contains("audit_dropped_total 1"));
    trail.stop(PATIENCE);
}

#[test]
fn a_file_that_is_rotated_away_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let mut sink = Sink::open(&AuditOutput::File(path.clone())).unwrap();
    sink.add(b"{\"n\":1}\n");
    sink.write_out().unwrap();
    let old = folder.path().join("audit.log.1");
    std::fs::rename(&path, &old).unwrap();
    sink.follow_rotation();
    sink.add(b"{\"n\":2}\n");
    sink.write_out().unwrap();
    assert!(sink.is_empty());
    assert_eq!((lines(&old)[0]["n"].as_u64(), lines(&path)[0]["n"].as_u64()), (Some(1), Some(2)));
    // One that was cut short in place goes on at its new end.
    File::create(&path).unwrap();
    sink.follow_rotation();
    sink.add(b"{\"n\":3}\n");
    sink.write_out().unwrap();
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn an_output_that_cannot_be_opened_is_said_at_the_start() {
    let settings = Settings { output: AuditOutput::File("/proc/none/audit.log".into()) };
    assert!(AuditTrail::start(&settings, &Metrics::new()).is_err());
    let off = AuditTrail::start(&Settings { output: AuditOutput::Off }, &Metrics::new()).unwrap();
    assert!(!off.log().is_on());
}
