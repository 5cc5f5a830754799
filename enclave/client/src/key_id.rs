//! Key identifiers: 128 bits, text form `k1` and 26 base32 characters, one spelling only.

use std::fmt;
use std::str::FromStr;

/// RFC 4648 base32 alphabet, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const PREFIX: &str = "k1";
const DIGITS: usize = 26;

/// Length of the text form in bytes.
pub const KEY_ID_TEXT_BYTES: usize = PREFIX.len() + DIGITS;

/// Identifier of a signing key. Its text form is canonical: what parses prints itself again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

/// A text that is not the canonical form of a key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical key id: expected `k1` and 26 characters of a-z and 2-7")]
pub struct KeyIdError;

impl KeyId {
    /// Takes 16 raw bytes.
    ///
    /// # Errors
    /// Any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, KeyIdError> {
        bytes.try_into().map(Self).map_err(|_| KeyIdError)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; KEY_ID_TEXT_BYTES];
        text[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        // 128 bits are 25 full digits and 3 bits, padded with two zero bits on the right.
        let mut rest = u128::from_be_bytes(self.0);
        text[KEY_ID_TEXT_BYTES - 1] = ALPHABET[usize::try_from((rest & 0b111) << 2).unwrap_or(0)];
        rest >>= 3;
        for digit in text[PREFIX.len()..KEY_ID_TEXT_BYTES - 1].iter_mut().rev() {
            *digit = ALPHABET[usize::try_from(rest & 0b1_1111).unwrap_or(0)];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).ok_or(KeyIdError)?.as_bytes();
        if digits.len() != DIGITS {
            return Err(KeyIdError);
        }
        let mut value = 0_u128;
        for (index, digit) in digits.iter().enumerate() {
            let bits = match digit {
                b'a'..=b'z' => digit - b'a',
                b'2'..=b'7' => digit - b'2' + 26,
                _ => return Err(KeyIdError),
            };
            if index + 1 == DIGITS {
                if bits & 0b11 != 0 {
                    return Err(KeyIdError);
                }
                value = (value << 3) | u128::from(bits >> 2);
            } else {
                value = (value << 5) | u128::from(bits);
            }
        }
        Ok(Self(value.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_and_ones_have_known_spellings() {
        assert_eq!(KeyId([0; 16]).to_string(), format!("k1{}", "a".repeat(26)));
        assert_eq!(KeyId([0xff; 16]).to_string(), format!("k1{}4", "7".repeat(25)));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = KeyId([0x5a; 16]).to_string();
        for bad in [
            good.to_uppercase(),
            good[1..].to_owned(),
            format!("{good}a"),
            format!(" {good}"),
            good.replacen('k', "q", 1),
            format!("{}b", &good[..good.len() - 1]),
            String::new(),
            good.replacen(|c: char| c == good.chars().nth(5).unwrap(), "1", 1),
        ] {
            assert_eq!(bad.parse::<KeyId>(), Err(KeyIdError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_id_reads_back(bytes: [u8; 16]) {
            let id = KeyId(bytes);
            prop_assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        }

        #[test]
        fn what_parses_prints_itself(text in "k1[a-z2-7]{26}") {
            if let Ok(id) = text.parse::<KeyId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
