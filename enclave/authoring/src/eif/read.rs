//! Reads an image file from anybody: bounded, without panics, and strictly.

use super::write::{self, MAGIC, VERSION};
use super::{
    Arch, EIF_BYTES_MAX, Eif, EifError, HEADER_BYTES, Kind, SECTION_HEADER_BYTES, SECTIONS_MAX,
    size,
};

/// Reads an image file: checks its CRC, and accepts what [`Eif::to_bytes`] would write and nothing
/// else. Allocates a header and a list of at most [`SECTIONS_MAX`] slices.
///
/// # Errors
/// Any other bytes; the error names the part.
pub fn parse(bytes: &[u8]) -> Result<Eif<'_>, EifError> {
    size("file", bytes.len(), EIF_BYTES_MAX)?;
    let (header, body) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| EifError::new("header", "cut off, expected 548 bytes"))?;
    let arch = arch(header)?;
    let (described, stored) = header.split_at(HEADER_BYTES - 4);
    let crc = write::crc(described, body);
    if crc.to_be_bytes() != stored {
        let problem = format!("computed {crc:08x}; the file is damaged, copy it again");
        return Err(EifError::new("CRC", problem));
    }
    let eif = arrange(arch, sections(body)?)?;
    eif.check()?;
    if write::header(&eif, &eif.sections())? != described {
        let problem = "expected the counts, offsets and sizes of the sections that follow, and the \
                       default sizes of AWS's builder";
        return Err(EifError::new("header", problem));
    }
    Ok(eif)
}

/// Magic, version and flags: what a file of another kind fails first.
fn arch(header: &[u8]) -> Result<Arch, EifError> {
    let Some((magic, rest)) = header.split_first_chunk() else {
        return Err(EifError::new("header", "cut off"));
    };
    if *magic != MAGIC {
        return Err(EifError::new("header", "not an EIF: it begins with other bytes than `.eif`"));
    }
    match rest {
        [high, low, ..] if u16::from_be_bytes([*high, *low]) != VERSION => {
            let version = u16::from_be_bytes([*high, *low]);
            Err(EifError::new("header", format!("version {version}, expected {VERSION}")))
        }
        [_, _, 0, 0, ..] => Ok(Arch::X86_64),
        [_, _, 0, 1, ..] => Ok(Arch::Aarch64),
        _ => Err(EifError::new("header", "flags that are not known")),
    }
}

/// The sections as they follow one another.
fn sections(mut body: &[u8]) -> Result<Vec<(Kind, &[u8])>, EifError> {
    let mut sections = Vec::new();
    while !body.is_empty() {
        if sections.len() == SECTIONS_MAX {
            return Err(EifError::new("sections", format!("more than {SECTIONS_MAX}")));
        }
        let cut_off = || EifError::new("sections", "cut off, or followed by other bytes");
        let (header, rest) =
            body.split_first_chunk::<SECTION_HEADER_BYTES>().ok_or_else(cut_off)?;
        let [kind_0, kind_1, 0, 0, bytes @ ..] = *header else {
            return Err(EifError::new("sections", "flags of a section, expected none"));
        };
        let bytes = usize::try_from(u64::from_be_bytes(bytes)).map_err(|_| cut_off())?;
        let (data, rest) = rest.split_at_checked(bytes).ok_or_else(cut_off)?;
        sections.push((kind(u16::from_be_bytes([kind_0, kind_1]))?, data));
        body = rest;
    }
    Ok(sections)
}

fn kind(number: u16) -> Result<Kind, EifError> {
    use Kind::{CommandLine, Kernel, Metadata, Ramdisk, Signature};
    [Kernel, CommandLine, Ramdisk, Signature, Metadata]
        .into_iter()
        .find(|kind| *kind as u16 == number)
        .ok_or_else(|| EifError::new("sections", format!("type {number} is not known")))
}

/// Puts each section in its place. Their order is fixed: registers are computed over it, and not
/// every reader would sort them alike.
fn arrange(arch: Arch, sections: Vec<(Kind, &[u8])>) -> Result<Eif<'_>, EifError> {
    let mut sections = sections.into_iter().peekable();
    let mut next = |kind| sections.next_if(|(found, _)| *found == kind).map(|(_, data)| data);
    let order = "expected kernel, command line, metadata, ramdisks, signature, in this order";
    let missing = |part| move || EifError::new(part, order);
    let kernel = next(Kind::Kernel).ok_or_else(missing("kernel"))?;
    let command_line = next(Kind::CommandLine).ok_or_else(missing("command line"))?;
    let metadata = next(Kind::Metadata).ok_or_else(missing("metadata"))?;
    let ramdisks = std::iter::from_fn(|| next(Kind::Ramdisk)).collect();
    let signature = next(Kind::Signature);
    if sections.next().is_some() {
        return Err(missing("sections")());
    }
    let command_line = std::str::from_utf8(command_line)
        .map_err(|_| EifError::new("command line", "expected printable ASCII"))?;
    Ok(Eif { arch, kernel, command_line, metadata, ramdisks, signature })
}
