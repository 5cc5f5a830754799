//! Enclave image files (EIF), version 4: what a Nitro enclave boots. The format is that of AWS's
//! `aws-nitro-enclaves-image-format`; `docs/formats.md` has it byte by byte.
//!
//! The reader takes bytes from anybody and accepts exactly what the writer writes, so that no two
//! readers of one file can disagree about what is measured.

pub mod cpio;
mod read;
mod write;

pub use read::parse;

use crate::measure::{self, Pcr};

/// Bytes of an image: eight times what ours have, and small enough to be read as a whole.
pub const EIF_BYTES_MAX: usize = 128 << 20;
/// Bytes of the kernel command line. Linux keeps 2,047; the hypervisor adds its devices behind ours.
pub const COMMAND_LINE_BYTES_MAX: usize = 1_024;
/// Bytes of the metadata and of the signature: texts and certificates, kilobytes.
pub const SIDE_SECTION_BYTES_MAX: usize = 64 << 10;
/// Sections that the header has room for.
pub const SECTIONS_MAX: usize = 32;

/// Bytes of the header.
const HEADER_BYTES: usize = 548;
/// Bytes of a section's header.
const SECTION_HEADER_BYTES: usize = 12;

/// An enclave image file, its parts borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eif<'a> {
    /// Processor that the kernel is for.
    pub arch: Arch,
    /// The kernel, a bzImage on x86_64.
    pub kernel: &'a [u8],
    /// The kernel's command line, printable ASCII.
    pub command_line: &'a str,
    /// JSON for people and tools. Not measured.
    pub metadata: &'a [u8],
    /// At least one; the kernel unpacks them over one another in this order.
    pub ramdisks: Vec<&'a [u8]>,
    /// A signature over PCR0, put there by `nitro-cli sign-eif`. Not checked here.
    pub signature: Option<&'a [u8]>,
}

/// Processor of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86_64
    X86_64,
    /// aarch64
    Aarch64,
}

/// An image, or what should become one, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("EIF: {part}: {problem}")]
pub struct EifError {
    /// Part of the file at fault.
    pub part: &'static str,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// Kinds of sections, as the format numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kernel = 1,
    CommandLine = 2,
    Ramdisk = 3,
    Signature = 4,
    Metadata = 5,
}

// === impl Eif ===

impl Eif<'_> {
    /// PCR0, PCR1 and PCR2 of an enclave that boots this image.
    pub fn measure(&self) -> [Pcr; 3] {
        measure::eif(self.kernel, self.command_line.as_bytes(), &self.ramdisks)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A part is missing or larger than its bound.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EifError> {
        self.check()?;
        write::file(self)
    }

    /// The sections in the order of the file, which is that of AWS's builder.
    fn sections(&self) -> Vec<(Kind, &[u8])> {
        let mut sections = vec![
            (Kind::Kernel, self.kernel),
            (Kind::CommandLine, self.command_line.as_bytes()),
            (Kind::Metadata, self.metadata),
        ];
        sections.extend(self.ramdisks.iter().map(|data| (Kind::Ramdisk, *data)));
        sections.extend(self.signature.map(|data| (Kind::Signature, data)));
        sections
    }

    fn check(&self) -> Result<(), EifError> {
        size("kernel", self.kernel.len(), EIF_BYTES_MAX)?;
        size("command line", self.command_line.len(), COMMAND_LINE_BYTES_MAX)?;
        if !self.command_line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(EifError::new("command line", "expected printable ASCII"));
        }
        size("metadata", self.metadata.len(), SIDE_SECTION_BYTES_MAX)?;
        if self.ramdisks.is_empty() {
            return Err(EifError::new(
                "ramdisks",
                "none; the first one holds the enclave as /init",
            ));
        }
        for ramdisk in &self.ramdisks {
            size("ramdisks", ramdisk.len(), EIF_BYTES_MAX)?;
        }
        if let Some(signature) = self.signature {
            size("signature", signature.len(), SIDE_SECTION_BYTES_MAX)?;
        }
        let sections = self.sections();
        if sections.len() > SECTIONS_MAX {
            let problem = format!("{}, at most {SECTIONS_MAX}", sections.len());
            return Err(EifError::new("sections", problem));
        }
        let bytes = |(_, data): &(Kind, &[u8])| SECTION_HEADER_BYTES.saturating_add(data.len());
        let total = sections.iter().map(bytes).fold(HEADER_BYTES, usize::saturating_add);
        size("file", total, EIF_BYTES_MAX)
    }
}

// === impl Arch ===

impl Arch {
    /// `x86_64` or `aarch64`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The processor that this program runs on.
    pub fn of_host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// The header's flags: their only bit says aarch64.
    fn flags(self) -> u16 {
        u16::from(self == Self::Aarch64)
    }
}

// === impl EifError ===

impl EifError {
    /// Names the part and what is expected there.
    pub fn new(part: &'static str, problem: impl Into<String>) -> Self {
        Self { part, problem: problem.into() }
    }
}

impl From<sigil_enclave_image::pins::PinsError> for EifError {
    fn from(error: sigil_enclave_image::pins::PinsError) -> Self {
        Self::new("pins", format!("{}: {}", error.field, error.problem))
    }
}

fn size(part: &'static str, bytes: usize, bytes_max: usize) -> Result<(), EifError> {
    if (1..=bytes_max).contains(&bytes) {
        return Ok(());
    }
    Err(EifError::new(part, format!("{bytes} bytes, expected 1 to {bytes_max}")))
}

#[cfg(test)]
mod tests;
