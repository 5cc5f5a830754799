//! Length-prefixed fields, the notation of `docs/formats.md`: `lp(x)` is a `u16` and then the bytes.

/// A field that is missing, too long, or not what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Writes `lp(bytes)`. What is longer than 65,535 bytes is cut there: every reader bounds its
/// fields far below and refuses it.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// Reads fields from the front.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Bytes of a fixed number.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    /// `lp(x)` of at most `bytes_max`.
    ///
    /// # Errors
    /// It is longer, or not whole.
    pub fn field(&mut self, bytes_max: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        if length > bytes_max {
            return Err(Malformed);
        }
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    /// A name, not empty. Which characters it may have is its owner's rule, not the parser's.
    ///
    /// # Errors
    /// It is longer, not whole, empty or no UTF-8.
    pub fn name(&mut self, bytes_max: usize) -> Result<String, Malformed> {
        let bytes = self.field(bytes_max)?;
        let name = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
        if name.is_empty() { Err(Malformed) } else { Ok(name.to_owned()) }
    }

    /// The end.
    ///
    /// # Errors
    /// Bytes are left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
