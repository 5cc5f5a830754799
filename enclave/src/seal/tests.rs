use proptest::prelude::*;

use super::*;

/// A blob that an independent implementation of the format made (Python, `cryptography`). It never
/// changes: a reader that cannot open it has lost keys.
const GOLDEN: &[u8] = include_bytes!("golden_v1.bin");

fn golden_header() -> Header {
    Header {
        app: "sigil-demo".into(),
        keyspace: Keyspace::parse("payments.eu").unwrap(),
        dek_id: [0xd1; 16],
        key_id: [0x1d; 16],
        // The public key of the scalar 1.
        public_key: const_hex::decode_to_array(
            "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
        )
        .unwrap(),
        created_ms: 1_700_000_000_123,
        birth_pcr0: [0xa0; 48],
    }
}

fn dek() -> Secret32 {
    Secret32::copy_from(&[0xde; 32]).unwrap()
}

fn scalar() -> Secret32 {
    let mut one = [0; 32];
    one[31] = 1;
    Secret32::copy_from(&one).unwrap()
}

#[test]
fn the_golden_blob_is_written_and_opened_for_ever() {
    assert_eq!(golden_header().seal(&dek(), &scalar()).unwrap(), GOLDEN);
    let sealed = parse(GOLDEN).unwrap();
    assert_eq!(sealed.header, golden_header());
    assert_eq!(sealed.open(&dek()).unwrap().expose_secret(), scalar().expose_secret());
}

#[test]
fn blob_with_any_byte_flipped_is_refused() {
    for at in 0..GOLDEN.len() {
        for bit in [1, 0x80] {
            let mut blob = GOLDEN.to_vec();
            blob[at] ^= bit;
            let opened = parse(&blob).and_then(|sealed| sealed.open(&dek()).map(drop));
            assert!(opened.is_err(), "byte {at}");
        }
    }
}

#[test]
fn blob_under_another_dek_is_refused() {
    let sealed = parse(GOLDEN).unwrap();
    let other = Secret32::copy_from(&[0xdf; 32]).unwrap();
    assert_eq!(sealed.open(&other).unwrap_err(), SealError::NotOpened);
}

#[test]
fn blob_of_another_length_is_refused() {
    for length in 0..GOLDEN.len() {
        assert!(parse(&GOLDEN[..length]).is_err(), "{length}");
    }
    let mut longer = GOLDEN.to_vec();
    longer.push(0);
    assert_eq!(parse(&longer).unwrap_err(), SealError::Malformed);
    assert_eq!(parse(&[0; BLOB_BYTES_MAX + 1]).unwrap_err(), SealError::Malformed);
}

#[test]
fn blob_with_a_policy_is_refused() {
    let mut blob = golden_header().encode();
    let at = blob.len() - 2;
    for policy in [&[0_u8, 0, 0][..], &[1, 0, 1, 7], &[9]] {
        blob.truncate(at);
        frame::put(&mut blob, policy);
        blob.extend_from_slice(&[0; TAIL_BYTES]);
        assert_eq!(parse(&blob).unwrap_err(), SealError::Policy);
    }
}

#[test]
fn blob_of_an_unknown_version_algorithm_or_flag_is_refused() {
    for at in 4..7 {
        let mut blob = GOLDEN.to_vec();
        blob[at] += 1;
        assert_eq!(parse(&blob).unwrap_err(), SealError::Malformed, "byte {at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(blob: Vec<u8>) {
        let _ = parse(&blob);
    }

    #[test]
    fn what_is_sealed_opens(
        dek: [u8; 32], scalar: [u8; 32], keyspace in "[a-z0-9][a-z0-9._-]{0,62}", created_ms: u64
    ) {
        let keyspace = Keyspace::parse(&keyspace).unwrap();
        let header = Header { keyspace, created_ms, ..golden_header() };
        let (dek, scalar) = (Secret32::copy_from(&dek).unwrap(), Secret32::copy_from(&scalar).unwrap());
        let blob = header.seal(&dek, &scalar).unwrap();
        let sealed = parse(&blob).unwrap();
        prop_assert_eq!(&sealed.header, &header);
        let opened = sealed.open(&dek).unwrap();
        prop_assert_eq!(opened.expose_secret(), scalar.expose_secret());
    }
}
