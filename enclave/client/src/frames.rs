//! The enclave's frames of the handshake, as the caller reads them. Format: `docs/formats.md`,
//! "Connection to the enclave".

use sigil_enclave_protocol::handshake::{
    BootId, ClaimToken, HELLO_BYTES, Hello, MAGIC, Refusal, VERDICT_BYTES, VERSION, Verdict,
};
use zeroize::Zeroizing;

/// A frame that is not one of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {frame} frame")]
pub struct FrameError {
    /// Which frame.
    pub frame: &'static str,
}

/// Reads the enclave's first frame.
///
/// # Errors
/// Another magic or version.
pub fn decode_hello(bytes: &[u8; HELLO_BYTES]) -> Result<Hello, FrameError> {
    if &bytes[..4] != MAGIC || bytes[4..6] != VERSION.to_be_bytes() {
        return Err(FrameError { frame: "hello" });
    }
    let mut hello = Hello { boot_id: BootId([0; 16]), nonce: [0; 32] };
    hello.boot_id.0.copy_from_slice(&bytes[6..22]);
    hello.nonce.copy_from_slice(&bytes[22..]);
    Ok(hello)
}

/// Reads the enclave's answer; `claimed` says whether a token is expected.
///
/// # Errors
/// An unknown code, a token where none belongs or none where one does, or a byte that should be
/// zero.
pub fn decode_verdict(bytes: &[u8; VERDICT_BYTES], claimed: bool) -> Result<Verdict, FrameError> {
    let error = FrameError { frame: "verdict" };
    let mut token = Zeroizing::new([0; 32]);
    token.copy_from_slice(&bytes[6..]);
    let verdict = match bytes[0] {
        0 if claimed && *token == [0; 32] => return Err(error),
        0 => Verdict::Accepted {
            worker_index: u16::from_be_bytes([bytes[2], bytes[3]]),
            worker_count: u16::from_be_bytes([bytes[4], bytes[5]]),
            token: claimed.then(|| ClaimToken::new(*token)),
        },
        1 => Verdict::Refused(Refusal::Malformed),
        2 => Verdict::Refused(Refusal::AlreadyClaimed),
        3 => Verdict::Refused(Refusal::NotClaimed),
        4 => Verdict::Refused(Refusal::WrongProof),
        5 => Verdict::Refused(Refusal::UnknownUnlock),
        6 => Verdict::Refused(Refusal::TooMany),
        7 => Verdict::Refused(Refusal::Draining),
        _ => return Err(error),
    };
    // A verdict has one spelling: what is reserved, or unused by this one, is zero.
    if *verdict.encode() == *bytes { Ok(verdict) } else { Err(error) }
}

/// A refusal in words.
pub(crate) fn in_words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed => "malformed handshake or another version",
        Refusal::AlreadyClaimed => "the enclave is already claimed",
        Refusal::NotClaimed => "the enclave is not claimed yet",
        Refusal::WrongProof => "the caller does not hold the claim token",
        Refusal::UnknownUnlock => "no unlock with this id is open",
        Refusal::TooMany => "too many connections",
        Refusal::Draining => "the enclave is draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_reads_back_and_another_magic_or_version_does_not() {
        let hello = Hello { boot_id: BootId([7; 16]), nonce: [9; 32] };
        assert_eq!(decode_hello(&hello.encode()), Ok(hello));
        for at in 0..6 {
            let mut bad = hello.encode();
            bad[at] ^= 1;
            assert!(decode_hello(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_verdict_carries_a_token_only_to_the_claimant() {
        let accepted = |token| Verdict::Accepted { worker_index: 1, worker_count: 2, token };
        // Erased on drop, as its type says.
        let with: Zeroizing<[u8; VERDICT_BYTES]> =
            accepted(Some(ClaimToken::new([3; 32]))).encode();
        let without = accepted(None).encode();
        assert!(decode_verdict(&with, true).is_ok() && decode_verdict(&without, false).is_ok());
        assert!(decode_verdict(&with, false).is_err() && decode_verdict(&without, true).is_err());
        for code in 1..=7_u8 {
            let mut frame = [0; VERDICT_BYTES];
            frame[0] = code;
            let Ok(Verdict::Refused(refusal)) = decode_verdict(&frame, false) else {
                panic!("{code}")
            };
            assert_eq!(refusal as u8, code);
        }
        let mut frame = [0; VERDICT_BYTES];
        frame[0] = 8;
        assert!(decode_verdict(&frame, false).is_err());
    }

    /// Found by the fuzzer: reserved bytes and the tail of a refusal were not looked at.
    #[test]
    fn a_verdict_has_one_spelling() {
        let accepted = Verdict::Accepted { worker_index: 1, worker_count: 2, token: None }.encode();
        let refused = Verdict::Refused(Refusal::TooMany).encode();
        for (frame, reserved) in [(&accepted, vec![1, 6, 37]), (&refused, (1..38).collect())] {
            assert_eq!(*decode_verdict(frame, false).unwrap().encode(), **frame);
            for at in reserved {
                let mut changed = frame.clone();
                changed[at] = 1;
                assert!(decode_verdict(&changed, false).is_err(), "byte {at}");
            }
        }
    }
}
