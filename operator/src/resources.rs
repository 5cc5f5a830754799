//! One pure builder for each kind of object.

mod config_map;
mod disruption_budget;
mod enclave_allocation;
pub mod needs;
mod service_account;
mod signer_pod;
mod signer_ring;
mod subset;
mod volume_claim;

pub use config_map::settings;
pub use disruption_budget::disruption_budget;
pub use enclave_allocation::enclave_allocation;
pub use service_account::{role, role_binding, service_account};
pub use signer_pod::signer_pod;
pub use signer_ring::signer_ring;
pub use subset::is_subset;
pub use volume_claim::volume_claim;

#[cfg(test)]
mod tests;
