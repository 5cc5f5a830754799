//! Workers over real enclaves, a real store and the test KMS.

mod bench;
mod lies;
mod race;
mod tested;
