//! Key blobs: what parses is written again with the same header; what opens under the known DEK is
//! one of the known blobs, and the plaintext is the known scalar.

use std::sync::LazyLock;

use sigil_enclave::names::Keyspace;
use sigil_enclave::seal::{Header, parse};
use sigil_enclave::secret::Secret32;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "blob",
    input_bytes_max: 3 * 1024,
    memory_bytes_max: 16 * 1024,
    check,
    seeds: || KNOWN.iter().cloned().collect(),
};

/// Made by an independent implementation, `enclave/src/seal/tests.rs`.
const GOLDEN: &[u8] = include_bytes!("../../../../enclave/src/seal/golden_v1.bin");

/// Everything that was ever sealed under [`dek`].
static KNOWN: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let mut header = parse(GOLDEN).expect("the golden blob").header;
    header.app.truncate(1);
    header.keyspace = Keyspace::parse("k".repeat(63).as_str()).expect("a name");
    [GOLDEN.to_vec(), sealed(&header)]
});

fn check(input: &[u8]) {
    let Ok(blob) = parse(input) else { return };
    let header = &blob.header;
    let again = sealed(header);
    let header_bytes = again.len() - 80;
    assert_eq!(again.get(..header_bytes), input.get(..header_bytes), "another header");
    assert_eq!(again.len(), input.len());
    match blob.open(&dek()) {
        Ok(scalar) => {
            assert!(KNOWN.iter().any(|known| known == input), "opened, and never sealed");
            assert_eq!(scalar.expose_secret(), one().expose_secret());
        }
        Err(_) => assert!(KNOWN.iter().all(|known| known != input), "sealed, and does not open"),
    }
}

fn sealed(header: &Header) -> Vec<u8> {
    header.seal(&dek(), &one()).expect("a header that was read")
}

fn dek() -> Secret32 {
    Secret32::copy_from(&[0xde; 32]).expect("a slot")
}

/// The scalar 1.
fn one() -> Secret32 {
    let mut one = [0; 32];
    one[31] = 1;
    Secret32::copy_from(&one).expect("a slot")
}
