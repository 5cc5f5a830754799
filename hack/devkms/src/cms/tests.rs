use std::path::Path;
use std::process::Command;

use super::*;

/// An answer of AWS KMS, see `enclave/testdata/cms/PROVENANCE.md`.
const AWS: &[u8] = include_bytes!("../../../../enclave/testdata/cms/01-aws-sdk-c-chunked.ber");

/// Zeros in place of key identifier, encrypted key, IV and encrypted content.
fn masked(envelope: &[u8]) -> Vec<u8> {
    let mut bytes = envelope.to_vec();
    for range in [33..65, 131..387, 415..431, 435..483] {
        bytes[range].fill(0);
    }
    bytes
}

fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments.split_whitespace());
    let output = command.output().expect("openssl is not installed: apt-get install openssl");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {text}");
    output.stdout
}

#[test]
fn the_structure_is_that_of_aws_and_openssl_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    openssl(
        folder.path(),
        "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem",
    );
    let spki = openssl(folder.path(), "pkey -in key.pem -pubout -outform DER");
    let recipient = Recipient::new(&spki).unwrap();
    let dek = [0xd7; 32];
    let made = envelope(&[&recipient], &dek).unwrap();
    assert_eq!(made.len(), AWS.len());
    assert_eq!(masked(&made), masked(AWS));
    assert_eq!(made[33..65], *digest(&SHA256, &spki).as_ref());
    std::fs::write(folder.path().join("envelope"), made).unwrap();
    let opened = openssl(folder.path(), "cms -decrypt -inform DER -inkey key.pem -in envelope");
    assert_eq!(opened, dek);
}

#[test]
fn other_keys_than_rsa_2048_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out key.pem",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
    ] {
        openssl(folder.path(), arguments);
        let spki = openssl(folder.path(), "pkey -in key.pem -pubout -outform DER");
        assert_eq!(Recipient::new(&spki).unwrap_err().code, "ValidationException");
    }
    assert_eq!(Recipient::new(b"").unwrap_err().code, "ValidationException");
}
