//! `open-envelope`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Run, run};

/// What OpenSSL makes of sample 03.
const DEK: &str = "3be82c440f06cb4d44c4c2ec3bf30d472407d3a9125aa4c1842b98f6bdd26e41\n";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/cms").join(name)
}

fn open(key: &Path, envelope: &Path) -> Run {
    run(&["open-envelope", key.to_str().unwrap(), envelope.to_str().unwrap()], "")
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output();
    let output = output.expect("openssl is not installed: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_published_envelope_opens_with_both_forms_of_its_key_and_as_openssl_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let (pkcs1, pkcs8) = (sample("03.testkey.pkcs1.der"), folder.path().join("pkcs8.der"));
    let envelope = sample("03-edgebit-enclaver-go.ber");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (key, file, out) = (text(&pkcs1), text(&envelope), text(&pkcs8));
    openssl(&[
        "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-in", &key, "-outform", "DER", "-out",
        &out,
    ]);
    let oracle = openssl(&["cms", "-decrypt", "-inform", "DER", "-in", &file, "-inkey", &key]);
    assert_eq!(const_hex::encode(oracle), DEK.trim_end());
    for key in [&pkcs1, &pkcs8] {
        let opened = open(key, &envelope);
        assert_eq!((opened.status, opened.out.as_str()), (Some(0), DEK), "{}", opened.err);
    }
}

#[test]
fn every_refusal_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let key = sample("03.testkey.pkcs1.der");
    let envelope = sample("03-edgebit-enclaver-go.ber");
    let bytes = std::fs::read(&envelope).unwrap();
    let changed = folder.path().join("changed");
    let write = |bytes: &[u8]| std::fs::write(&changed, bytes).unwrap();
    let refused = |key: &Path, envelope: &Path, name: &str| {
        let run = open(key, envelope);
        assert_eq!((run.status, run.out.as_str()), (Some(1), ""), "{name}");
        assert!(run.err.contains(&format!(": {name}: ")), "{name}: {}", run.err);
    };
    for other in ["01-aws-sdk-c-chunked.ber", "02-aws-sdk-c-primitive.ber"] {
        refused(&key, &sample(other), "other-recipient");
    }
    refused(&envelope, &envelope, "key");
    refused(&key, Path::new("absent"), "file");
    refused(Path::new("absent"), &envelope, "file");
    for malformed in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat(), &[]] {
        write(malformed);
        refused(&key, &changed, "malformed");
    }
    for closed in [131, 386, 466] {
        let mut bytes = bytes.clone();
        bytes[closed] ^= 1;
        write(&bytes);
        refused(&key, &changed, "closed");
    }
    let large = folder.path().join("large.der");
    let arguments = "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -outform DER -out";
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    arguments.push(large.to_str().unwrap());
    openssl(&arguments);
    refused(&large, &envelope, "key");
}
