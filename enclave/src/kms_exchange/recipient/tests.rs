use std::path::Path;
use std::process::Command;

use super::*;

const SAMPLE: &[u8] = include_bytes!("../../../testdata/cms/03-edgebit-enclaver-go.ber");
const SAMPLE_KEY: &[u8] = include_bytes!("../../../testdata/cms/03.testkey.pkcs1.der");
/// What `openssl cms -decrypt` makes of the sample.
const SAMPLE_DEK: &str = "3be82c440f06cb4d44c4c2ec3bf30d472407d3a9125aa4c1842b98f6bdd26e41";

/// The published key of sample 03.
pub(in crate::kms_exchange) fn sample_recipient() -> RecipientKey {
    // PKCS#8 (RFC 5208): version 0, rsaEncryption with NULL, then the PKCS#1 key.
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let octets = [&[0x04, 0x82], length(SAMPLE_KEY.len()).as_slice(), SAMPLE_KEY].concat();
    let algorithm: &[u8] =
        &[2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let inner = [algorithm, &octets].concat();
    let pkcs8 = [&[0x30, 0x82], length(inner.len()).as_slice(), &inner].concat();
    RecipientKey::new(PrivateDecryptingKey::from_pkcs8(&pkcs8).unwrap()).unwrap()
}

#[test]
fn a_real_envelope_opens_with_its_key() {
    let dek = sample_recipient().open(SAMPLE).unwrap();
    assert_eq!(const_hex::encode(dek.expose_secret()), SAMPLE_DEK);
}

#[test]
fn an_envelope_for_another_key_is_told_apart() {
    let other = RecipientKey::generate().unwrap();
    assert_eq!(other.spki_der().len(), 294);
    assert_eq!(other.open(SAMPLE).unwrap_err(), EnvelopeError::OtherRecipient);
    assert_eq!(format!("{other:?}"), "RecipientKey(redacted)");
}

/// RSA, OAEP, AES, padding, length: whatever fails, the error is the same.
#[test]
fn failures_of_decryption_cannot_be_told_apart() {
    let recipient = sample_recipient();
    let changed = |at: usize, by: u8| {
        let mut bytes = SAMPLE.to_vec();
        bytes[at] ^= by;
        recipient.open(&bytes).map(|_| ())
    };
    for at in [131, 200, 386] {
        assert_eq!(changed(at, 1), Err(EnvelopeError::Closed), "encrypted key, byte {at}");
    }
    // The last byte of the second block is xored into the last byte of the padding.
    for by in [0x01, 0x10, 0xff] {
        assert_eq!(changed(466, by), Err(EnvelopeError::Closed), "padding ^ {by:#x}");
    }
    let without_first_block = {
        let mut bytes = SAMPLE.to_vec();
        bytes.drain(435..451);
        bytes[434] -= 16;
        bytes
    };
    assert_eq!(recipient.open(&without_first_block).unwrap_err(), EnvelopeError::Closed);
    let half_a_block = {
        let mut bytes = SAMPLE.to_vec();
        bytes.drain(475..483);
        bytes[434] -= 8;
        bytes
    };
    assert_eq!(recipient.open(&half_a_block).unwrap_err(), EnvelopeError::Closed);
}

/// The envelope is confidential, not authentic: this is why TLS to KMS must end in the enclave. Of
/// all flipped bits those of the IV and of the first block of content open to another DEK, as CBC
/// has it; every other one is refused, and none opens to the same DEK.
#[test]
fn a_flipped_bit_is_refused_or_changes_the_dek_as_cbc_has_it() {
    const IV: usize = 415;
    const FIRST_BLOCK: usize = 435;
    let recipient = sample_recipient();
    let dek: [u8; 32] = const_hex::decode_to_array(SAMPLE_DEK).unwrap();
    for at in 0..SAMPLE.len() {
        for bit in 0..8 {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] ^= 1 << bit;
            let opened = recipient.open(&bytes).map(|dek| *dek.expose_secret());
            if (IV..IV + 16).contains(&at) {
                let mut expected = dek;
                expected[at - IV] ^= 1 << bit;
                assert_eq!(opened, Ok(expected), "IV, byte {at}, bit {bit}");
            } else if (FIRST_BLOCK..FIRST_BLOCK + 16).contains(&at) {
                let opened = opened.unwrap();
                let mut expected = dek;
                expected[at - FIRST_BLOCK + 16] ^= 1 << bit;
                assert_eq!(opened[16..], expected[16..], "content, byte {at}, bit {bit}");
                assert_ne!(opened[..16], dek[..16], "content, byte {at}, bit {bit}");
            } else {
                assert!(opened.is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}

/// OpenSSL as an independent maker of envelopes.
#[test]
fn envelopes_of_openssl_open() {
    let folder = tempfile::tempdir().unwrap();
    let dek = [0xd7; 32];
    std::fs::write(folder.path().join("dek"), dek).unwrap();
    openssl(
        folder.path(),
        "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem",
    );
    openssl(folder.path(), "pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der");
    let private = std::fs::read(folder.path().join("key.der")).unwrap();
    let private = PrivateDecryptingKey::from_pkcs8(&private).unwrap();
    let recipient = RecipientKey::new(private).unwrap();
    let identifier = const_hex::encode(recipient.key_identifier);
    openssl(
        folder.path(),
        &format!(
            "req -x509 -new -key key.pem -subj /CN=test -addext subjectKeyIdentifier={identifier} \
             -out certificate.pem"
        ),
    );
    for streamed in ["-stream", "-nodetach"] {
        openssl(
            folder.path(),
            &format!(
                "cms -encrypt -binary {streamed} -in dek -outform DER -out envelope -keyid \
                 -aes-256-cbc -recip certificate.pem -keyopt rsa_padding_mode:oaep \
                 -keyopt rsa_oaep_md:sha256 -keyopt rsa_mgf1_md:sha256"
            ),
        );
        let envelope = std::fs::read(folder.path().join("envelope")).unwrap();
        assert_eq!(recipient.open(&envelope).unwrap().expose_secret(), &dek, "{streamed}");
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments.split_whitespace());
    let output = command.output().expect("openssl is not installed: apt-get install openssl");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {text}");
}
