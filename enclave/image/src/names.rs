//! Names that stand in blobs, statements and KMS encryption contexts. Rules: `docs/formats.md`.

/// Bytes of an app or keyspace name: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// A text that is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an app name.
    #[error("1-63 characters of a-z, 0-9, -; the first and the last a letter or a digit")]
    App,
    /// Not a keyspace name.
    #[error("1-63 characters of a-z, 0-9, -, ., _; the first a letter or a digit")]
    Keyspace,
    /// Not the beginning of a keyspace name.
    #[error("empty, or the beginning of a keyspace name (a-z, 0-9, -, ., _; 63 at most)")]
    KeyspacePrefix,
}

/// Checks the name of a deployment.
///
/// # Errors
/// [`NameError::App`].
pub fn check_app(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let all = bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-');
    if ends && all && bytes.len() <= NAME_BYTES_MAX { Ok(()) } else { Err(NameError::App) }
}

/// Checks the name of a keyspace.
///
/// # Errors
/// [`NameError::Keyspace`].
pub fn check_keyspace(name: &str) -> Result<(), NameError> {
    if name.is_empty() || !begins_keyspace(name) { Err(NameError::Keyspace) } else { Ok(()) }
}

/// Checks the prefix of a keyspace rule; the empty one matches all keyspaces.
///
/// # Errors
/// [`NameError::KeyspacePrefix`].
pub fn check_keyspace_prefix(prefix: &str) -> Result<(), NameError> {
    if begins_keyspace(prefix) { Ok(()) } else { Err(NameError::KeyspacePrefix) }
}

fn begins_keyspace(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_none_or(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || b"-._".contains(byte))
        && bytes.len() <= NAME_BYTES_MAX
}

fn alphanumeric(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_rules() {
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        for good in ["a", "0", "demo", "a-b", "a--b", &longest] {
            assert_eq!(check_app(good), Ok(()), "{good}");
            assert_eq!(check_keyspace(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a\0", "a\n", &too_long] {
            assert_eq!(check_app(bad), Err(NameError::App), "{bad:?}");
        }
        for good in ["a-", "a.", "a_", "payments.eu-1_x"] {
            assert_eq!(check_keyspace(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "A", "a b", "a/b", "ä", "a\0", "a\"", &too_long] {
            assert_eq!(check_keyspace(bad), Err(NameError::Keyspace), "{bad:?}");
        }
        assert_eq!(check_keyspace_prefix(""), Ok(()));
        assert_eq!(check_keyspace_prefix("pay."), Ok(()));
        for bad in ["-", "*", "A", &too_long] {
            assert_eq!(check_keyspace_prefix(bad), Err(NameError::KeyspacePrefix), "{bad:?}");
        }
    }
}
