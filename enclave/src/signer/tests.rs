use aws_lc_rs::digest;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{RecoveryId, Signature as OracleSignature, SigningKey, VerifyingKey};
use proptest::prelude::*;

use super::*;

pub(super) mod faults;

fn sha256(message: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, message).as_ref().try_into().unwrap()
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    const_hex::decode(hex).unwrap().try_into().unwrap()
}

/// A key as it stands in the cache.
fn key(signer: &Signer, scalar: &[u8; 32]) -> (Secret32, [u8; 33]) {
    let mut scalar = Secret32::copy_from(scalar).unwrap();
    let public_key = signer.public_key(&scalar).unwrap();
    scalar.bind_to(&public_key);
    (scalar, public_key)
}

fn sign(mode: VerifyMode, scalar: &[u8; 32], digest: [u8; 32]) -> (Signature, [u8; 33]) {
    let mut signer = Signer::new(mode, 0).unwrap();
    let (scalar, public_key) = key(&signer, scalar);
    let item = Item { digest, scalar: &scalar, public_key: &public_key };
    (signer.sign_batch(&[item], 0).unwrap()[0], public_key)
}

/// Deterministic signatures over secp256k1 and SHA-256, published with several implementations of
/// RFC 6979 (the RFC itself has no vectors for this curve).
#[test]
fn rfc_6979_vectors() {
    let one = "0000000000000000000000000000000000000000000000000000000000000001";
    let largest = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140";
    let vectors = [
        (
            one,
            "Satoshi Nakamoto",
            "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8\
             2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
        ),
        (
            one,
            "All those moments will be lost in time, like tears in rain. Time to die...",
            "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b\
             547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
        ),
        (
            largest,
            "Satoshi Nakamoto",
            "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d0\
             6b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5",
        ),
        (
            "f8b8af8ce3c7cca5e300d33939540c10d45ce001b8f252bfbc57ba0342904181",
            "Alan Turing",
            "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c\
             58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea",
        ),
    ];
    for (scalar, message, expected) in vectors {
        let (signature, _) = sign(VerifyMode::Full, &bytes(scalar), sha256(message.as_bytes()));
        assert_eq!(signature.compact, bytes(expected), "{message}");
    }
}

#[test]
fn the_self_test_digest_is_what_its_comment_says() {
    assert_eq!(SELF_TEST_DIGEST, sha256(b"sigil/self-test/v1"));
}

#[test]
fn what_is_no_scalar_is_refused() {
    let signer = Signer::new(VerifyMode::Full, 0).unwrap();
    let order = bytes("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
    for bad in [[0; 32], order, [0xff; 32]] {
        let bad = Secret32::copy_from(&bad).unwrap();
        assert!(!signer.is_scalar(&bad));
        assert_eq!(signer.public_key(&bad), Err(Fault));
    }
}

#[test]
fn blinding_is_drawn_again_by_count_and_by_age() {
    let mut signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let (scalar, public_key) = key(&signer, &[7; 32]);
    let item = Item { digest: [9; 32], scalar: &scalar, public_key: &public_key };
    let first = signer.sign_batch(&[item; 32], 10).unwrap();
    assert_eq!((signer.signed_since_randomized, signer.randomized_ms), (32, 0));
    let second = signer.sign_batch(&[item], 20).unwrap();
    assert_eq!((signer.signed_since_randomized, signer.randomized_ms), (1, 20));
    signer.sign_batch(&[item], 20 + RANDOMIZE_AFTER_MS - 1).unwrap();
    assert_eq!((signer.signed_since_randomized, signer.randomized_ms), (2, 20));
    signer.sign_batch(&[item], 20 + RANDOMIZE_AFTER_MS).unwrap();
    assert_eq!(
        (signer.signed_since_randomized, signer.randomized_ms),
        (1, 20 + RANDOMIZE_AFTER_MS)
    );
    assert_eq!(first[31], second[0], "blinding does not change signatures");
    assert!(signer.sign_batch(&[], 0).unwrap().is_empty());
}

#[test]
fn a_signature_that_does_not_verify_stops_the_whole_batch() {
    for mode in [VerifyMode::BatchSample, VerifyMode::Full] {
        let mut signer = Signer::new(mode, 0).unwrap();
        let (_, other) = key(&signer, &[8; 32]);
        let mut scalar = Secret32::copy_from(&[7; 32]).unwrap();
        scalar.bind_to(&other);
        let item = Item { digest: [9; 32], scalar: &scalar, public_key: &other };
        assert_eq!(signer.sign_batch(&[item], 0), Err(Fault), "{mode:?}");
        assert_eq!(signer.sign_one(&item), Err(Fault));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_signature_and_public_key_agrees_with_an_independent_implementation(
        scalar: [u8; 32], digest: [u8; 32]
    ) {
        let Ok(oracle) = SigningKey::from_slice(&scalar) else { return Ok(()) };
        let (signature, public_key) = sign(VerifyMode::BatchSample, &scalar, digest);
        let verifying = VerifyingKey::from(&oracle);
        let point = verifying.to_sec1_point(true);
        prop_assert_eq!(point.as_bytes(), &public_key[..]);
        let parsed = OracleSignature::from_slice(&signature.compact).unwrap();
        prop_assert_eq!(parsed.normalize_s(), parsed, "low S");
        prop_assert!(verifying.verify_prehash(&digest, &parsed).is_ok());
        let recovery_id = RecoveryId::from_byte(signature.recovery_id).unwrap();
        let recovered = VerifyingKey::recover_from_prehash(&digest, &parsed, recovery_id).unwrap();
        prop_assert_eq!(recovered, verifying);
    }
}
