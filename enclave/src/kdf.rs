//! HKDF-SHA-512 with 32 bytes of output, the one shape that the formats use.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Prk, Salt};

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-Extract.
pub(crate) fn extract(salt: &[u8], input: &[u8]) -> Prk {
    Salt::new(HKDF_SHA512, salt).extract(input)
}

/// HKDF-Expand into `out`; `info` is concatenated.
pub(crate) fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8; 32]) -> Result<(), Unspecified> {
    prk.expand(info, Bytes32)?.fill(out)
}
