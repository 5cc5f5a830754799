//! Lets the linker put `src/boundary.rs` between the enclave and libsecp256k1.

/// What `src/boundary.rs` wraps. A name that the library does not have (its names hold the version
/// of the crate) fails to link.
const WRAPPED: [&str; 4] = [
    "rustsecp256k1_v0_14_context_randomize",
    "rustsecp256k1_v0_14_ec_pubkey_create",
    "rustsecp256k1_v0_14_ec_seckey_verify",
    "rustsecp256k1_v0_14_ecdsa_sign_recoverable",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in WRAPPED {
        println!("cargo::rustc-link-arg-bins=-Wl,--wrap={name}");
    }
}
