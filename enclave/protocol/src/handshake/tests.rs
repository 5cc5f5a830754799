use super::*;
use proptest::prelude::*;

fn hello() -> Hello {
    Hello { boot_id: BootId([7; 16]), nonce: [9; 32] }
}

#[test]
fn frames_read_back() {
    let token = ClaimToken::new([3; 32]);
    assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    for purpose in [Purpose::Rpc, Purpose::Tunnel([4; 16])] {
        let proof = Proof::new(purpose, &hello(), &token);
        assert_eq!(Proof::decode(&proof.encode()), Ok(proof));
        assert!(proof.proves(&hello(), &token));
    }
    assert_eq!(Proof::decode(&Proof::claim().encode()), Ok(Proof::claim()));
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
        assert!(Proof::decode(&bad).is_err(), "byte {at} = {value}");
    }
    let mut claim_with_mac = Proof::claim().encode();
    claim_with_mac[20] = 1;
    assert!(Proof::decode(&claim_with_mac).is_err());
    for at in 0..6 {
        let mut bad = hello().encode();
        bad[at] ^= 1;
        assert!(Hello::decode(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn a_verdict_carries_a_token_only_to_the_claimant() {
    let accepted = |token| Verdict::Accepted { worker_index: 1, worker_count: 2, token };
    // Erased on drop, as its type says.
    let with: Zeroizing<[u8; VERDICT_BYTES]> = accepted(Some(ClaimToken::new([3; 32]))).encode();
    let without = accepted(None).encode();
    assert!(Verdict::decode(&with, true).is_ok() && Verdict::decode(&without, false).is_ok());
    assert!(Verdict::decode(&with, false).is_err() && Verdict::decode(&without, true).is_err());
    for code in 1..=7_u8 {
        let mut frame = [0; VERDICT_BYTES];
        frame[0] = code;
        let Ok(Verdict::Refused(refusal)) = Verdict::decode(&frame, false) else {
            panic!("{code}")
        };
        assert_eq!(refusal as u8, code);
    }
    let mut frame = [0; VERDICT_BYTES];
    frame[0] = 8;
    assert!(Verdict::decode(&frame, false).is_err());
}

/// Found by the fuzzer: reserved bytes and the tail of a refusal were not looked at.
#[test]
fn a_verdict_has_one_spelling() {
    let accepted = Verdict::Accepted { worker_index: 1, worker_count: 2, token: None }.encode();
    let refused = Verdict::Refused(Refusal::TooMany).encode();
    for (frame, reserved) in [(&accepted, vec![1, 6, 37]), (&refused, (1..38).collect())] {
        assert_eq!(*Verdict::decode(frame, false).unwrap().encode(), **frame);
        for at in reserved {
            let mut changed = frame.clone();
            changed[at] = 1;
            assert!(Verdict::decode(&changed, false).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_token_never_prints() {
    assert_eq!(format!("{:?}", ClaimToken::new([3; 32])), "ClaimToken(redacted)");
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(bytes in proptest::array::uniform::<_, PROOF_BYTES>(any::<u8>())) {
        if let Ok(proof) = Proof::decode(&bytes) {
            prop_assert_eq!(proof.encode(), bytes);
        }
    }
}
