//! Where the audit goes: standard output, or a file that may be rotated away, or a pipe that nobody
//! reads yet. Nothing here waits for a reader.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::config::AuditOutput;

/// Bytes that a pipe takes as one (PIPE_BUF): lines written by others never come between.
const ATOMIC_BYTES: usize = 4_096;

/// An output with what it has not taken yet.
pub(super) struct Sink {
    output: Output,
    pending: Vec<u8>,
    /// Bytes of `pending` that were taken.
    taken: usize,
}

enum Output {
    Stdout(File),
    File { path: PathBuf, file: Option<File> },
}

// === impl Sink ===

impl Sink {
    /// Opens it for appending.
    ///
    /// # Errors
    /// It cannot be opened, and not because a pipe has no reader.
    pub(super) fn open(output: &AuditOutput) -> io::Result<Self> {
        let output = match output {
            AuditOutput::File(path) => {
                let file = match open(path) {
                    Ok(file) => Some(file),
                    Err(error) if is_without_reader(&error) => None,
                    Err(error) => return Err(error),
                };
                Output::File { path: path.clone(), file }
            }
            AuditOutput::Stdout | AuditOutput::Off => {
                Output::Stdout(File::from(rustix::io::dup(rustix::stdio::stdout())?))
            }
        };
        Ok(Self { output, pending: Vec::new(), taken: 0 })
    }

    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.pending.len()
    }

    /// Adds whole lines; whoever adds has asked whether it is empty, so that it stays bounded.
    pub(super) fn add(&mut self, lines: &[u8]) {
        if self.is_empty() {
            self.pending.clear();
            self.taken = 0;
        }
        self.pending.extend_from_slice(lines);
    }

    /// Writes as much as is taken.
    ///
    /// # Errors
    /// The output failed; the rest stays for the next time.
    pub(super) fn write_out(&mut self) -> io::Result<()> {
        while let Some(rest) = self.pending.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let written = match &mut self.output {
                Output::Stdout(file) => file.write(one_piece(rest)),
                Output::File { file: Some(file), .. } => file.write(rest),
                Output::File { path, file } => {
                    *file = Some(open(path)?);
                    continue;
                }
            };
            match written {
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    if error.kind() != ErrorKind::StorageFull {
                        self.close();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Opens the path again if it is another file now, or none: the old one was rotated away.
    pub(super) fn follow_rotation(&mut self) {
        let Output::File { path, file: Some(file) } = &self.output else { return };
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let (Ok(ours), there) = (file.metadata(), std::fs::metadata(path)) else { return };
        if there.map(id).ok() != Some(id(ours)) {
            self.close();
        }
    }

    /// The next write opens it again, and begins with the line that was cut.
    fn close(&mut self) {
        let Output::File { file, .. } = &mut self.output else { return };
        *file = None;
        let taken = self.pending.get(..self.taken).unwrap_or_default();
        self.taken = taken.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    }
}

/// Whole lines that fit one atomic write, or the first line.
fn one_piece(lines: &[u8]) -> &[u8] {
    let fits = lines.get(..ATOMIC_BYTES).unwrap_or(lines);
    let end = fits.iter().rposition(|byte| *byte == b'\n');
    let end = end.or_else(|| lines.iter().position(|byte| *byte == b'\n'));
    end.and_then(|end| lines.get(..=end)).unwrap_or(lines)
}

fn open(path: &PathBuf) -> io::Result<File> {
    // A pipe without a reader would keep whoever opens it, and one with a slow reader whoever writes.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Opened for writing only, without waiting, a pipe that nobody reads is ENXIO (open(2)).
fn is_without_reader(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}
