//! Published signatures, good and bad; `enclave/testdata/ecdsa/PROVENANCE.md` says whose.

use k256::ecdsa::RecoveryId;

use super::*;

const P1363: &str = include_str!("../../../../enclave/testdata/ecdsa/wycheproof-p1363.tsv");
const BITCOIN: &str = include_str!("../../../../enclave/testdata/ecdsa/wycheproof-bitcoin.tsv");
const RECOVERY: &str = include_str!("../../../../enclave/testdata/ecdsa/libsecp256k1-recovery.tsv");

fn bytes(hex: &str) -> Vec<u8> {
    const_hex::decode(hex).unwrap()
}

/// A line of Wycheproof: case, key, message, signature, result, flags.
struct Case<'a> {
    id: &'a str,
    key: VerifyingKey,
    digest: [u8; 32],
    signature: Vec<u8>,
    valid: bool,
}

fn cases(lines: &str) -> impl Iterator<Item = Case<'_>> {
    lines.lines().map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [id, key, message, signature, result, _] = fields[..] else { panic!("{line}") };
        assert!(["valid", "invalid"].contains(&result), "{line}");
        Case {
            id,
            key: VerifyingKey::from_sec1_bytes(&bytes(key)).unwrap(),
            digest: sha256(&bytes(message)),
            signature: bytes(signature),
            valid: result == "valid",
        }
    })
}

/// 64 bytes are r | s. Wycheproof accepts both S; we only the low one, and the good and the bad are
/// told apart by what the library makes of the other S.
#[test]
fn wycheproof_p1363() {
    let (mut good, mut high, mut bad, mut other_length) = (0, 0, 0, 0);
    for case in cases(P1363) {
        let Ok(compact) = <[u8; 64]>::try_from(case.signature) else {
            assert!(!case.valid, "{}", case.id);
            other_length += 1;
            continue;
        };
        let verifies = signature_verifies(&case.key, &case.digest, &compact);
        let signature = Signature::from_slice(&compact);
        let low = signature.is_ok_and(|signature| signature.normalize_s() == signature);
        assert_eq!(verifies, case.valid && low, "{}", case.id);
        match (case.valid, low) {
            (true, true) => good += 1,
            (true, false) => high += 1,
            (false, _) => bad += 1,
        }
    }
    assert_eq!((good, high, bad, other_length), (95, 72, 67, 18));
}

/// Signatures in DER, of which Bitcoin accepts the low S alone. Those that are no DER have no form
/// that we take.
#[test]
fn wycheproof_bitcoin() {
    let (mut good, mut bad, mut no_der) = (0, 0, 0);
    for case in cases(BITCOIN) {
        let Ok(signature) = Signature::from_der(&case.signature) else {
            assert!(!case.valid, "{}", case.id);
            no_der += 1;
            continue;
        };
        let compact = signature.to_bytes().into();
        assert_eq!(
            signature_verifies(&case.key, &case.digest, &compact),
            case.valid,
            "{}",
            case.id
        );
        if case.valid { good += 1 } else { bad += 1 }
    }
    assert_eq!((good, bad, no_der), (162, 19, 282));
}

/// Edge cases of libsecp256k1: digest, r | s, recovery id, whether a key is recovered from them; the
/// signature verifies under that key.
#[test]
fn libsecp256k1_recovery() {
    let mut recovered = 0;
    for line in RECOVERY.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [digest, compact, recovery_id, result, note] = fields[..] else { panic!("{line}") };
        let digest: [u8; 32] = bytes(digest).try_into().unwrap();
        let compact: [u8; 64] = bytes(compact).try_into().unwrap();
        let recovery_id = RecoveryId::from_byte(recovery_id.parse().unwrap()).unwrap();
        let key = Signature::from_slice(&compact).and_then(|signature| {
            VerifyingKey::recover_from_prehash(&digest, &signature, recovery_id)
        });
        assert_eq!(key.is_ok(), result == "valid", "{note}");
        if let Ok(key) = key {
            assert!(signature_verifies(&key, &digest, &compact), "{note}");
            recovered += 1;
        }
    }
    assert_eq!((RECOVERY.lines().count(), recovered), (15, 6));
}
