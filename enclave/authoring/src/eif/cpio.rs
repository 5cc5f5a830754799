//! Ramdisks: cpio archives in the `newc` format of Linux' initramfs
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), written in one way only: sorted,
//! owned by root, without times, inode numbers or links.

use super::EifError;

/// Entries of an archive: ours have one each.
pub const ENTRIES_MAX: usize = 64;
/// Mode of an executable file that nobody writes.
pub const EXECUTABLE: u32 = 0o100_555;
/// Mode of a file that nobody writes.
pub const DATA: u32 = 0o100_444;

const MAGIC: &[u8] = b"070701";
const FIELDS: usize = 13;
const HEADER_BYTES: usize = 6 + 8 * FIELDS;
const TRAILER: &str = "TRAILER!!!";

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without a leading slash.
    pub name: &'a str,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Contents.
    pub data: &'a [u8],
}

/// Writes an archive. The same entries give the same bytes, in whatever order they come.
///
/// # Errors
/// An entry that the format cannot hold.
pub fn write(entries: &[Entry<'_>]) -> Result<Vec<u8>, EifError> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.name);
    let mut archive = Vec::new();
    for entry in sorted {
        if entry.name.is_empty() || entry.name == TRAILER || entry.name.contains('\0') {
            return Err(EifError::new("ramdisks", "an entry's name"));
        }
        append(&mut archive, entry)?;
    }
    append(&mut archive, &Entry { name: TRAILER, mode: 0, data: &[] })?;
    Ok(archive)
}

/// Reads an archive from anybody; accepts what [`write()`] would write and nothing else.
///
/// # Errors
/// Any other bytes.
pub fn read(archive: &[u8]) -> Result<Vec<Entry<'_>>, EifError> {
    let refused = || EifError::new("ramdisks", "expected a canonical cpio (newc) of few entries");
    let mut entries = Vec::new();
    let mut rest = archive;
    loop {
        let (entry, after) = next(rest).ok_or_else(refused)?;
        rest = after;
        if entry.name == TRAILER {
            break;
        }
        if entries.len() == ENTRIES_MAX {
            return Err(refused());
        }
        entries.push(entry);
    }
    if write(&entries)? != archive {
        return Err(refused());
    }
    Ok(entries)
}

fn append(archive: &mut Vec<u8>, entry: &Entry<'_>) -> Result<(), EifError> {
    let field = |number: usize| {
        u32::try_from(number).map_err(|_| EifError::new("ramdisks", "an entry is 4 GiB or larger"))
    };
    let bytes = field(entry.data.len())?;
    let name_bytes = field(entry.name.len().saturating_add(1))?;
    // ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev (two each), namesize, check
    let fields = [0, entry.mode, 0, 0, 1, 0, bytes, 0, 0, 0, 0, name_bytes, 0];
    archive.extend(MAGIC);
    for field in fields {
        archive.extend(format!("{field:08X}").bytes());
    }
    archive.extend(entry.name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(entry.data);
    pad(archive);
    Ok(())
}

/// Names end and contents begin and end at multiples of 4.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// One entry, not yet checked against its canonical form, and what follows.
fn next(rest: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let header = rest.get(..HEADER_BYTES)?;
    let field = |index: usize| {
        let digits = header.get(MAGIC.len() + 8 * index..)?.get(..8)?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let [mode, bytes, name_bytes] = [field(1)?, field(6)?, field(11)?];
    let name_end = HEADER_BYTES.checked_add(usize::try_from(name_bytes).ok()?)?;
    let name = rest.get(HEADER_BYTES..name_end)?.strip_suffix(&[0])?;
    let data_start = name_end.checked_next_multiple_of(4)?;
    let data_end = data_start.checked_add(usize::try_from(bytes).ok()?)?;
    let entry = Entry {
        name: std::str::from_utf8(name).ok()?,
        mode,
        data: rest.get(data_start..data_end)?,
    };
    Some((entry, rest.get(data_end.checked_next_multiple_of(4)?..)?))
}

#[cfg(test)]
mod tests;
