//! What an enclave image is pinned to and how it is measured.
//!
//! Feature `authoring` adds what people and tools write: `pins.yaml` and `measurements.json`. The
//! enclave is built without it.

pub mod measure;
#[cfg(feature = "authoring")]
pub mod measurements;
pub mod names;
pub mod pins;
#[cfg(feature = "authoring")]
pub mod pins_yaml;

pub use measure::{Pcr, ProcessPcrs};
#[cfg(feature = "authoring")]
pub use measurements::{Measurements, MeasurementsError};
pub use names::NameError;
pub use pins::{Ceilings, KeyspaceRule, Pins, PinsError, VerifyMode};
#[cfg(feature = "authoring")]
pub use pins_yaml::{PinsFile, PinsFileError};
