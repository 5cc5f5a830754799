//! What people and release jobs write and read about enclave images: `pins.yaml` and
//! `measurements.json`. The enclave itself needs none of it. Formats: `docs/formats.md`.

pub mod measurements;
pub mod pins_yaml;
