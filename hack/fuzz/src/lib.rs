//! Fuzz targets: one for each parser that reads bytes from outside. A target is a function of bytes
//! that panics if its property does not hold; "no panic" and "bounded memory" are part of each.
//! `hack/fuzz/run` fuzzes them, `tests/replay.rs` runs each over its seeds and its corpus in every
//! `cargo test`. Why libFuzzer on a stable compiler: decision 17.

mod ber;
mod fixtures;
pub mod memory;
mod targets;

use sigil_enclave::secret::Secret32;

use memory::peak_bytes;

/// A parser and what must hold of it.
pub struct Target {
    /// Name, and folder of the corpus.
    pub name: &'static str,
    /// Bytes of the longest input worth trying: beyond the parser's own bound, where it has one.
    pub input_bytes_max: usize,
    /// Bytes that one input may have allocated at once: what "bounded memory" means here.
    pub memory_bytes_max: usize,
    /// Panics if the property does not hold for these bytes.
    pub check: fn(&[u8]),
    /// Inputs to start from: real documents, envelopes, golden files.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 17] = [
    targets::attestation::RAW,
    targets::attestation::SIGNED,
    targets::blob::TARGET,
    targets::cms::TARGET,
    targets::config::TARGET,
    targets::contract::GRPC,
    targets::contract::HTTP,
    targets::eif::TARGET,
    targets::handshake::TARGET,
    targets::kms_answer::TARGET,
    targets::measurements::TARGET,
    targets::membership::TARGET,
    targets::pins::TARGET,
    targets::protocol::TARGET,
    targets::statement::TARGET,
    targets::text::TARGET,
    targets::token::TARGET,
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs one input.
    ///
    /// # Panics
    /// The property does not hold, or the input cost more memory than the target allows.
    pub fn run(&self, input: &[u8]) {
        // The enclave's slab is made by its first secret, once a process; no input pays for it.
        drop(Secret32::zeroed());
        let bytes = peak_bytes(|| (self.check)(input));
        let max = self.memory_bytes_max;
        assert!(bytes <= max, "{}: {bytes} bytes allocated at once, at most {max}", self.name);
    }
}
