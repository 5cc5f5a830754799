//! What the parts that threads share are made of. `tests/races` compiles those parts over loom's.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
