//! 32 secret bytes that stay where they are: in a slot of the slab, erased on drop, never printed
//! or copied.

use crate::slab::{SlabFull, Slot, slab};

/// A scalar, a data encryption key or a seed. Moving it moves a pointer, so no copy stays behind.
pub struct Secret32(Slot);

impl Secret32 {
    /// 32 zero bytes, to be filled in place.
    ///
    /// # Errors
    /// The slab is full.
    pub fn zeroed() -> Result<Self, SlabFull> {
        slab().map_err(|_| SlabFull)?.take().map(Self)
    }

    /// Copies `bytes`; the caller erases its own.
    ///
    /// # Errors
    /// The slab is full.
    pub fn copy_from(bytes: &[u8; 32]) -> Result<Self, SlabFull> {
        let mut secret = Self::zeroed()?;
        secret.expose_secret_mut().copy_from_slice(bytes);
        Ok(secret)
    }

    /// Tags the secret as the private key of `public_key`; see [`Self::is_bound_to`].
    pub fn bind_to(&mut self, public_key: &[u8; 33]) {
        self.0.bind_to(public_key);
    }

    /// True if this is the private key that was bound to `public_key`, unchanged, in its place.
    pub fn is_bound_to(&self, public_key: &[u8; 33]) -> bool {
        self.0.is_bound_to(public_key)
    }

    /// The bytes, for a call that needs them.
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes, to be filled.
    pub fn expose_secret_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret32(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret32::copy_from(&[0xab; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret32(redacted)");
    }
}
