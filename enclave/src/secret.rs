//! 32 secret bytes that stay where they are: on the heap, erased on drop, never printed or copied.

use zeroize::Zeroize;

/// A scalar, a data encryption key or a seed. Moving it moves a pointer, so no copy stays behind.
pub struct Secret32(Box<[u8; 32]>);

impl Secret32 {
    /// 32 zero bytes, to be filled in place.
    pub fn zeroed() -> Self {
        Self(Box::new([0; 32]))
    }

    /// Copies `bytes`; the caller erases its own.
    pub fn copy_from(bytes: &[u8; 32]) -> Self {
        let mut secret = Self::zeroed();
        secret.expose_secret_mut().copy_from_slice(bytes);
        secret
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

impl Drop for Secret32 {
    fn drop(&mut self) {
        self.0.zeroize();
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
        assert_eq!(format!("{:?}", Secret32::copy_from(&[0xab; 32])), "Secret32(redacted)");
    }
}
