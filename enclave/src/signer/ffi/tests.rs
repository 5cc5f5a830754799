//! The check that a signature passes before it leaves, over published signatures; where they come
//! from: `enclave/testdata/ecdsa/PROVENANCE.md`.

use k256::ecdsa::{RecoveryId, Signature as OracleSignature, VerifyingKey};

use super::*;

const P1363: &str = include_str!("../../../testdata/ecdsa/wycheproof-p1363.tsv");
const RECOVERY: &str = include_str!("../../../testdata/ecdsa/libsecp256k1-recovery.tsv");
/// (n - 1) / 2: what is above is a high S.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

fn bytes(hex: &str) -> Vec<u8> {
    const_hex::decode(hex).unwrap()
}

fn compressed(key: &VerifyingKey) -> [u8; 33] {
    key.to_sec1_point(true).as_bytes().try_into().unwrap()
}

fn contexts() -> [Context; 2] {
    [Context::new(Sha256::Accelerated), Context::new(Sha256::Portable)]
}

#[test]
fn wycheproof_p1363() {
    let (mut good, mut refused) = (0, 0);
    for line in P1363.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [id, key, message, signature, result, _] = fields[..] else { panic!("{line}") };
        let Ok(compact) = <[u8; 64]>::try_from(bytes(signature)) else { continue };
        let key = compressed(&VerifyingKey::from_sec1_bytes(&bytes(key)).unwrap());
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes(message));
        let digest = digest.as_ref().try_into().unwrap();
        let expected = result == "valid" && compact[32..] <= HALF_ORDER[..];
        for context in contexts() {
            assert_eq!(context.verify(&key, &digest, &compact), expected, "{id}");
        }
        if expected { good += 1 } else { refused += 1 }
    }
    assert_eq!((good, refused), (95, 139));
}

#[test]
fn libsecp256k1_recovery() {
    let mut good = 0;
    for line in RECOVERY.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [digest, compact, recovery_id, result, note] = fields[..] else { panic!("{line}") };
        let digest: [u8; 32] = bytes(digest).try_into().unwrap();
        let compact: [u8; 64] = bytes(compact).try_into().unwrap();
        let recovery_id = RecoveryId::from_byte(recovery_id.parse().unwrap()).unwrap();
        let key = OracleSignature::from_slice(&compact).and_then(|signature| {
            VerifyingKey::recover_from_prehash(&digest, &signature, recovery_id)
        });
        assert_eq!(key.is_ok(), result == "valid", "{note}");
        let Ok(key) = key else { continue };
        for context in contexts() {
            assert!(context.verify(&compressed(&key), &digest, &compact), "{note}");
            let mut other = digest;
            other[31] ^= 1;
            assert!(!context.verify(&compressed(&key), &other, &compact), "{note}");
        }
        good += 1;
    }
    assert_eq!(good, 6);
    // r of the order and 4, r = 0, s = 0: no key verifies them.
    let key = compressed(&VerifyingKey::from_sec1_bytes(&bytes(GENERATOR)).unwrap());
    for line in RECOVERY.lines().filter(|line| line.contains("\tinvalid\t")) {
        let fields: Vec<_> = line.split('\t').collect();
        let digest = bytes(fields[0]).try_into().unwrap();
        let compact = bytes(fields[1]).try_into().unwrap();
        assert!(!contexts()[0].verify(&key, &digest, &compact), "{line}");
    }
}

const GENERATOR: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
