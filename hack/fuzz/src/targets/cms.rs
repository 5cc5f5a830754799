//! `CiphertextForRecipient`: what opens is for this key, has no other length, and means the same in
//! the spelling of a second reader.

use sigil_enclave::kms_exchange::EnvelopeError;

use crate::Target;
use crate::ber;
use crate::fixtures::{ENVELOPES, RECIPIENT};

pub(crate) const TARGET: Target = Target {
    name: "cms",
    input_bytes_max: 7 * 1024,
    memory_bytes_max: 64 * 1024,
    check,
    seeds: || {
        let definite = ENVELOPES.map(ber::normalized).into_iter().flatten();
        ENVELOPES.map(<[u8]>::to_vec).into_iter().chain(definite).collect()
    },
};

fn check(input: &[u8]) {
    let opened = RECIPIENT.open(input);
    let read = !matches!(opened, Err(EnvelopeError::Malformed));
    if !read {
        return;
    }
    assert!(input.len() <= 6_144, "longer than KMS makes any");
    let normalized = ber::normalized(input).expect("read, and the second reader does not");
    let again = RECIPIENT.open(&normalized);
    let cut = RECIPIENT.open(&input[..input.len() - 1]);
    let longer = RECIPIENT.open(&[input, &[0]].concat());
    for other in [cut, longer] {
        assert!(matches!(other, Err(EnvelopeError::Malformed)), "two lengths of one envelope");
    }
    match (opened, again) {
        (Ok(dek), Ok(again)) => assert_eq!(dek.expose_secret(), again.expose_secret()),
        (opened, again) => assert_eq!(opened.map(drop), again.map(drop)),
    }
}
