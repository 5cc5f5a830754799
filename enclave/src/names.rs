//! A keyspace name as the hot path wants it: checked once, copied without an allocation.

use sigil_enclave_image::names::check_keyspace;
use sigil_enclave_protocol::bounds::NAME_BYTES_MAX;

/// A valid keyspace name, see `docs/formats.md`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyspace {
    length: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

/// A text that is no keyspace name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceError;

impl Keyspace {
    /// Checks a name.
    ///
    /// # Errors
    /// The text breaks the rule of `docs/formats.md`.
    pub fn parse(text: &str) -> Result<Self, KeyspaceError> {
        check_keyspace(text).map_err(|_| KeyspaceError)?;
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes.get_mut(..text.len()).ok_or(KeyspaceError)?.copy_from_slice(text.as_bytes());
        Ok(Self { length: u8::try_from(text.len()).map_err(|_| KeyspaceError)?, bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_rule() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for good in ["default", "0", "payments.eu-1_x", &longest] {
            assert_eq!(Keyspace::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", ".a", "A", "a b", "ä", &too_long] {
            assert_eq!(Keyspace::parse(bad), Err(KeyspaceError), "{bad}");
        }
    }
}
