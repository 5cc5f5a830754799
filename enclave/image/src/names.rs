//! Names of apps and keyspaces. One rule for whoever writes, pins or checks one.

/// Bytes of a name: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;

/// A text that breaks the rule for names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

/// An app: 1 to 63 of `a-z 0-9 -`, first and last alphanumeric.
///
/// # Errors
/// Anything else.
pub fn check_app(name: &str) -> Result<(), NameError> {
    let ends = [name.bytes().next(), name.bytes().last()];
    let good = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
        && ends.into_iter().flatten().all(alphanumeric);
    let rule = "1 to 63 of a-z 0-9 -, first and last alphanumeric";
    good.then_some(()).ok_or_else(|| error("app", name, rule))
}

/// A keyspace: 1 to 63 of `a-z 0-9 - . _`, first alphanumeric.
///
/// # Errors
/// Anything else.
pub fn check_keyspace(name: &str) -> Result<(), NameError> {
    let good = !name.is_empty() && check_keyspace_prefix(name).is_ok();
    let rule = "1 to 63 of a-z 0-9 - . _, first alphanumeric";
    good.then_some(()).ok_or_else(|| error("keyspace", name, rule))
}

/// The beginning of keyspace names; may be empty.
///
/// # Errors
/// A text that no keyspace begins with.
pub fn check_keyspace_prefix(prefix: &str) -> Result<(), NameError> {
    let good = prefix.len() <= NAME_BYTES_MAX
        && prefix.bytes().all(|byte| alphanumeric(byte) || b"-._".contains(&byte))
        && prefix.bytes().next().is_none_or(alphanumeric);
    let rule = "at most 63 of a-z 0-9 - . _, first alphanumeric";
    good.then_some(()).ok_or_else(|| error("keyspace prefix", prefix, rule))
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn error(kind: &'static str, name: &str, rule: &'static str) -> NameError {
    // A hostile name must not fill a log.
    let name: String = name.chars().take(NAME_BYTES_MAX).collect();
    NameError(format!("{kind} `{name}`: expected {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_rule() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for good in ["a", "payments-eu", "0x", &longest] {
            assert_eq!(check_app(good), Ok(()));
            assert_eq!(check_keyspace(good), Ok(()));
        }
        assert!(check_keyspace("eu.hot_1").is_ok() && check_app("eu.hot").is_err());
        let too_long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", "A", "a b", "\u{e4}", &too_long] {
            assert!(check_app(bad).is_err() && check_keyspace(bad).is_err(), "{bad}");
        }
        assert!(check_app("a-").is_err());
        assert!(check_keyspace_prefix("").is_ok() && check_keyspace_prefix(".a").is_err());
    }
}
