//! Pins, and the rule for names. Formats: `docs/formats.md`.

pub mod names;
pub mod pins;

pub use pins::Pins;
