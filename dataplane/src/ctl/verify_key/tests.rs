use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use k256::ecdsa::SigningKey;
use k256::ecdsa::signature::hazmat::PrehashSigner;
use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::{ProcessPcrs, process};
use sigil_verifier::UserData;
use tempfile::TempDir;

use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

/// A key, what an enclave says about it, and the files a verifier has.
struct Bench {
    folder: TempDir,
    key: SigningKey,
    statement: Statement,
}

fn pcrs() -> ProcessPcrs {
    process(b"executable", b"pins")
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let public_key = key.verifying_key().to_sec1_point(true);
        let statement = Statement {
            kind: StatementKind::Birth,
            app: "demo".to_owned(),
            keyspace: "default".to_owned(),
            key_id: [1; 16],
            public_key: public_key.as_bytes().try_into().unwrap(),
            policy_hash: sha256(b""),
            challenge: vec![0xc0, 0xff, 0xee],
            dek_id: [4; 16],
            dek_provenance: Provenance::Born,
            dek_birth_pcr0: pcrs().pcr0,
            key_birth_pcr0: pcrs().pcr0,
            time_ms: NOW_MS,
        };
        std::fs::write(folder.path().join("root.der"), test_root_der()).unwrap();
        let bench = Self { folder, key, statement };
        bench.write_measurements(&pcrs(), "demo");
        bench
    }

    fn write_measurements(&self, pcrs: &ProcessPcrs, app: &str) {
        let hex = |pcr: &[u8; 48]| const_hex::encode(pcr);
        let json = json!({
            "formatVersion": 1, "kind": "process", "arch": "x86_64", "app": app,
            "pcr0": hex(&pcrs.pcr0), "pcr1": hex(&pcrs.pcr1), "pcr2": hex(&pcrs.pcr2),
            "pcr3": hex(&pcrs.pcr3), "pinsSha384": hex(&[0; 48]), "insecure": true, "kms": [],
        });
        std::fs::write(self.folder.path().join("measurements.json"), json.to_string()).unwrap();
    }

    /// The statement, signed as the enclave does.
    fn signed(&self) -> Value {
        let boot = Ed25519KeyPair::generate().unwrap();
        let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
        let user_data = UserData::StatementKey { boot_id: [9; 16] }.encode();
        let mut document = TestDocument::new(NOW_MS, pcrs());
        document.user_data(Some(&user_data)).public_key(Some(boot.public_key().as_ref()));
        let document = document.sign(&chain).unwrap();
        let statement = self.statement.encode();
        json!({
            "signature": const_hex::encode(boot.sign(&statement)),
            "statement": const_hex::encode(statement),
            "documentHash": const_hex::encode(sha256(&document)),
            "document": STANDARD.encode(document),
        })
    }

    fn created(&self) -> Value {
        json!({
            "keyId": KeyId(self.statement.key_id).to_string(),
            "keyspace": self.statement.keyspace,
            "publicKey": const_hex::encode(self.statement.public_key),
            "birth": self.signed(),
        })
    }

    fn args(&self) -> Args {
        Args {
            file: self.folder.path().join("key.json"),
            measurements: vec![self.folder.path().join("measurements.json")],
            root: Some(self.folder.path().join("root.der")),
            challenge: Some("c0ffee".parse().unwrap()),
            public_key: None,
            keyspace: None,
            allow_other_birth: false,
            digest: None,
            signature: None,
        }
    }

    fn check(&self, answer: &Value) -> Result<Value, &'static str> {
        Self::check_with(answer, &self.args())
    }

    fn check_with(answer: &Value, args: &Args) -> Result<Value, &'static str> {
        std::fs::write(&args.file, answer.to_string()).unwrap();
        let report = check(args).map_err(|refused| refused.check)?;
        Ok(serde_json::to_value(&report).unwrap())
    }
}

#[test]
fn both_answers_verify_and_the_report_says_everything() {
    let bench = Bench::new();
    for answer in [bench.created(), bench.signed()] {
        let report = bench.check(&answer).unwrap();
        assert_eq!(report["verified"], true);
        assert_eq!(report["trusted"], false, "the test root is not AWS'");
        assert_eq!(report["statement"]["app"], "demo");
        assert_eq!(report["statement"]["dekProvenance"], "born");
        assert_eq!(report["statement"]["challenge"], "c0ffee");
        assert_eq!(report["document"]["pcrs"]["0"], const_hex::encode(pcrs().pcr0));
        assert_eq!(report["document"]["sigil"]["kind"], "statement-key");
    }
}

#[test]
fn an_answer_with_another_key_than_the_statements_is_refused() {
    let bench = Bench::new();
    let other = SigningKey::from_slice(&[8; 32]).unwrap().verifying_key().to_sec1_point(true);
    for (field, value, expected) in [
        ("publicKey", const_hex::encode(other), "public-key"),
        ("keyId", KeyId([2; 16]).to_string(), "key-id"),
        ("keyspace", "other".to_owned(), "keyspace"),
        // Whatever is said beside what can be checked.
        ("address", "0x00".to_owned(), "file"),
    ] {
        let mut answer = bench.created();
        answer[field] = value.into();
        assert_eq!(bench.check(&answer), Err(expected));
    }
}

#[test]
fn a_changed_statement_signature_or_document_is_refused() {
    let bench = Bench::new();
    for (field, expected) in [
        ("statement", "statement-signature"),
        ("signature", "statement-signature"),
        ("documentHash", "document-hash"),
    ] {
        let mut answer = bench.signed();
        let text = answer[field].as_str().unwrap();
        let last = if text.ends_with('0') { '1' } else { '0' };
        answer[field] = format!("{}{last}", &text[..text.len() - 1]).into();
        assert_eq!(bench.check(&answer), Err(expected), "{field}");
    }
    let mut answer = bench.signed();
    answer["document"] = bench.signed()["document"].clone();
    assert_eq!(bench.check(&answer), Err("document-hash"));
    for bad in [json!({}), json!([]), json!({ "statement": 1 })] {
        assert_eq!(bench.check(&bad), Err("file"));
    }
}

#[test]
fn what_the_caller_asked_for_must_be_there() {
    let bench = Bench::new();
    let answer = bench.created();
    let public_key = Some(Hex(bench.statement.public_key.to_vec()));
    let good = Args { public_key, keyspace: Some("default".into()), ..bench.args() };
    assert!(Bench::check_with(&answer, &good).is_ok());
    for (args, expected) in [
        (Args { challenge: Some(Hex(vec![0xc0, 0xff, 0xef])), ..bench.args() }, "challenge"),
        (Args { challenge: Some(Hex(vec![0xc0, 0xff])), ..bench.args() }, "challenge"),
        (Args { public_key: Some(Hex(vec![2; 33])), ..bench.args() }, "public-key"),
        (Args { keyspace: Some("other".into()), ..bench.args() }, "keyspace"),
        (Args { root: None, ..bench.args() }, "root"),
        (Args { root: Some("absent".into()), ..bench.args() }, "root-file"),
        (Args { measurements: vec!["absent".into()], ..bench.args() }, "measurements-file"),
    ] {
        assert_eq!(Bench::check_with(&answer, &args), Err(expected));
    }
}

#[test]
fn images_and_births_are_judged() {
    let mut bench = Bench::new();
    bench.write_measurements(&pcrs(), "other");
    assert_eq!(bench.check(&bench.signed()), Err("app"));
    bench.write_measurements(&process(b"other", b"pins"), "demo");
    assert_eq!(bench.check(&bench.signed()), Err("measurements"));
    bench.write_measurements(&pcrs(), "demo");
    bench.statement.kind = StatementKind::Possession;
    assert!(bench.check(&bench.signed()).is_ok());
    assert_eq!(bench.check(&bench.created()), Err("kind"), "a birth statement was asked for");
    let lenient = Args { allow_other_birth: true, ..bench.args() };
    bench.statement.key_birth_pcr0 = [5; 48];
    assert_eq!(bench.check(&bench.signed()), Err("key-birth"));
    assert!(Bench::check_with(&bench.signed(), &lenient).is_ok());
    bench.statement.key_birth_pcr0 = pcrs().pcr0;
    for (provenance, pcr0) in [(Provenance::Foreign, [6; 48]), (Provenance::Unproven, [0; 48])] {
        bench.statement.dek_provenance = provenance;
        bench.statement.dek_birth_pcr0 = pcr0;
        assert_eq!(bench.check(&bench.signed()), Err("dek-birth"));
        assert!(Bench::check_with(&bench.signed(), &lenient).is_ok());
    }
}

#[test]
fn signatures_are_verified_and_high_s_is_refused() {
    let bench = Bench::new();
    let answer = bench.created();
    let digest = [3; 32];
    let signature: Signature = bench.key.sign_prehash(&digest).unwrap();
    let low = signature.normalize_s();
    let high = Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).unwrap();
    let with = |digest: [u8; 32], signature: &Signature| {
        let signature = Some(Box::new(signature.to_bytes().into()));
        let args = Args { digest: Some(Box::new(digest)), signature, ..bench.args() };
        Bench::check_with(&answer, &args).map(drop)
    };
    assert_eq!(with(digest, &low), Ok(()));
    assert_eq!(with(digest, &high), Err("secp256k1-signature"));
    assert_eq!(with([4; 32], &low), Err("secp256k1-signature"));
}

#[test]
fn a_public_key_that_is_no_point_is_refused() {
    let mut bench = Bench::new();
    bench.statement.public_key = [2; 33];
    bench.statement.public_key[1..].fill(0xff);
    assert_eq!(bench.check(&bench.signed()), Err("point"));
}

#[test]
fn a_policy_is_refused_and_a_missing_challenge_is_warned_about() {
    let mut bench = Bench::new();
    assert_eq!(warning(&bench.args()), None);
    let without = Args { challenge: None, ..bench.args() };
    assert!(warning(&without).unwrap().contains("--challenge"));
    bench.statement.policy_hash = sha256(b"\x01\x00\x00");
    for lenient in [false, true] {
        let args = Args { allow_other_birth: lenient, ..bench.args() };
        assert_eq!(Bench::check_with(&bench.created(), &args), Err("policy"));
    }
}
