//! What people and release jobs write and read about enclave images: the EIF itself, the rule of its
//! registers, `pins.yaml` and `measurements.json`. The enclave itself needs none of it. Formats: `docs/formats.md`.

pub mod eif;
pub mod image;
pub mod measure;
pub mod measurements;
pub mod pins_yaml;
