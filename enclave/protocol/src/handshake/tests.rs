use super::*;
use proptest::prelude::*;

fn hello() -> Hello {
    Hello { boot_id: BootId([7; 16]), nonce: [9; 32] }
}

#[test]
fn frames_read_back() {
    let token = ClaimToken::new([3; 32]);
    for purpose in [Purpose::Rpc, Purpose::Tunnel([4; 16])] {
        let proof = Proof::new(purpose, &hello(), &token);
        assert_eq!(Proof::decode(&proof.encode()), Some(proof));
        assert!(proof.proves(&hello(), &token));
    }
    assert_eq!(Proof::decode(&Proof::CLAIM.encode()), Some(Proof::CLAIM));
}

#[test]
fn a_proof_holds_for_one_token_nonce_boot_and_purpose() {
    let token = ClaimToken::new([3; 32]);
    let proof = Proof::new(Purpose::Tunnel([4; 16]), &hello(), &token);
    assert!(!proof.proves(&hello(), &ClaimToken::new([5; 32])));
    assert!(!proof.proves(&Hello { nonce: [8; 32], ..hello() }, &token));
    assert!(!proof.proves(&Hello { boot_id: BootId([8; 16]), ..hello() }, &token));
    let other = Proof { purpose: Purpose::Tunnel([5; 16]), ..proof };
    assert!(!other.proves(&hello(), &token));
    assert!(!Proof { purpose: Purpose::Rpc, ..proof }.proves(&hello(), &token));
}

#[test]
fn a_mac_matches_the_published_construction() {
    // Recomputed from docs/formats.md with `hmac` of another library (Python's hmac module).
    let token = ClaimToken::new([3; 32]);
    let proof = Proof::new(Purpose::Rpc, &hello(), &token);
    let expected = [
        0x80, 0x66, 0x46, 0x39, 0x9b, 0x01, 0x30, 0xfc, 0x5a, 0x34, 0x96, 0x38, 0x34, 0x40, 0xe6,
        0x46, 0x97, 0xd7, 0x03, 0x92, 0xb6, 0x44, 0xe5, 0xce, 0x52, 0x40, 0x9d, 0x33, 0xbc, 0x01,
        0x8d, 0x23,
    ];
    assert_eq!(proof.encode()[20..], expected);
}

#[test]
fn unknown_and_reserved_bytes_are_refused() {
    let token = ClaimToken::new([3; 32]);
    let rpc = Proof::new(Purpose::Rpc, &hello(), &token).encode();
    for (at, value) in [(0, 1), (1, 2), (2, 0), (2, 4), (3, 1), (4, 1), (19, 1)] {
        let mut bad = rpc;
        bad[at] = value;
        assert!(Proof::decode(&bad).is_none(), "byte {at} = {value}");
    }
    let mut claim_with_mac = Proof::CLAIM.encode();
    claim_with_mac[20] = 1;
    assert!(Proof::decode(&claim_with_mac).is_none());
}

#[test]
fn a_token_never_prints() {
    assert_eq!(format!("{:?}", ClaimToken::new([3; 32])), "ClaimToken(redacted)");
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(bytes in proptest::array::uniform::<_, PROOF_BYTES>(any::<u8>())) {
        if let Some(proof) = Proof::decode(&bytes) {
            prop_assert_eq!(proof.encode(), bytes);
        }
    }
}
