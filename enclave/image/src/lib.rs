//! What an enclave image is measured by: pins and the PCR rule. Formats: `docs/formats.md`.

pub mod measure;
pub mod names;
pub mod pins;

pub use pins::Pins;
