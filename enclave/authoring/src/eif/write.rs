//! Writes an image file.

use super::{Eif, EifError, HEADER_BYTES, Kind, SECTION_HEADER_BYTES, SECTIONS_MAX};

pub(super) const MAGIC: [u8; 4] = *b".eif";
pub(super) const VERSION: u16 = 4;
/// What an enclave gets that is started without sizes. AWS's builder knows no other values, and ours
/// are always started with sizes.
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;
const DEFAULT_CPUS: u64 = 2;
/// Bytes of the header that the CRC covers: all but the CRC itself, its last field.
const HEADER_BYTES_IN_CRC: usize = HEADER_BYTES - 4;

/// The whole file.
pub(super) fn file(eif: &Eif<'_>) -> Result<Vec<u8>, EifError> {
    let sections = eif.sections();
    let mut body = Vec::new();
    for (kind, data) in &sections {
        body.extend(section_header(*kind, data.len()));
        body.extend_from_slice(data);
    }
    let mut file = header(eif, &sections)?;
    file.extend(crc(&file, &body).to_be_bytes());
    file.append(&mut body);
    Ok(file)
}

/// The header up to its CRC.
pub(super) fn header(eif: &Eif<'_>, sections: &[(Kind, &[u8])]) -> Result<Vec<u8>, EifError> {
    let count =
        u16::try_from(sections.len()).ok().filter(|count| usize::from(*count) <= SECTIONS_MAX);
    let count = count.ok_or_else(|| EifError::new("sections", "too many"))?;
    let sizes: Vec<u64> = sections.iter().map(|(_, data)| to_u64(data.len())).collect();
    let mut next = to_u64(HEADER_BYTES);
    let offsets = sizes.iter().map(|size| {
        let offset = next;
        next = next.saturating_add(to_u64(SECTION_HEADER_BYTES)).saturating_add(*size);
        offset
    });
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(VERSION.to_be_bytes());
    header.extend(eif.arch.flags().to_be_bytes());
    header.extend(DEFAULT_MEMORY_BYTES.to_be_bytes());
    header.extend(DEFAULT_CPUS.to_be_bytes());
    header.extend([0; 2]);
    header.extend(count.to_be_bytes());
    table(&mut header, offsets);
    table(&mut header, sizes.iter().copied());
    header.extend([0; 4]);
    Ok(header)
}

/// CRC-32 as in zlib, over the header without its CRC and all sections.
pub(super) fn crc(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..header.len().min(HEADER_BYTES_IN_CRC)]);
    crc.update(body);
    crc.finalize()
}

fn section_header(kind: Kind, bytes: usize) -> Vec<u8> {
    let no_flags = [0; 2];
    [&(kind as u16).to_be_bytes()[..], &no_flags, &to_u64(bytes).to_be_bytes()].concat()
}

/// One value for each section, zeros in the rest.
fn table(header: &mut Vec<u8>, values: impl Iterator<Item = u64>) {
    for value in values.chain(std::iter::repeat(0)).take(SECTIONS_MAX) {
        header.extend(value.to_be_bytes());
    }
}

/// Sizes in memory fit: no machine of ours has wider addresses.
fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}
