//! Turns SignerPools into enclaves, pods, a ring and conditions.
//!
//! Start at [`signer_pool::reconcile`]: observe, validate, plan, apply, status. Everything between
//! `observe` and `apply` is pure: no client, no clock, no error.

pub mod conditions;
pub mod measurements;
pub mod names;
pub mod outcome;
pub mod resources;
pub mod runtime;
pub mod signer_pool;
