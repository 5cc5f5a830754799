//! What an enclave image is measured by: pins, the PCR rule, measurements. Formats: `docs/formats.md`.

pub mod measure;
#[cfg(feature = "authoring")]
pub mod measurements;
pub mod names;
pub mod pins;
#[cfg(feature = "authoring")]
pub mod pins_yaml;

pub use pins::Pins;
