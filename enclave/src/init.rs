//! What the kernel expects of its first process. An image holds this program and its pins and
//! nothing else: no shell, no other process, no network but vsock.

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::tcdrain;
use sigil_enclave_protocol::bounds::CONNECTIONS_MAX;

/// What is mounted: the NSM and the console are below the first, the current random source below
/// the second. Nothing reads `/proc`.
const MOUNTS: [(&str, &str); 2] = [("devtmpfs", "/dev"), ("sysfs", "/sys")];
/// Open files: every connection, and as many again for handshakes, timers and devices.
const FILES_MAX: u64 = 2 * CONNECTIONS_MAX as u64;

/// True in the first process of a machine.
pub fn is_init() -> bool {
    getpid().is_init()
}

/// Does the duties of a first process; nothing in any other.
///
/// # Errors
/// A file system cannot be mounted or a limit cannot be set; the message says which.
pub fn prepare() -> io::Result<()> {
    if !is_init() {
        return Ok(());
    }
    for (kind, target) in MOUNTS {
        mount_on(kind, target)?;
    }
    // A machine without a console runs all the same, and says nothing.
    let open = |path| rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    let console = open("/dev/console").or_else(|_| open("/dev/null"));
    let console = console.map_err(|error| said("/dev/null", &error.into()))?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    let files = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    setrlimit(Resource::Nofile, files).map_err(|error| said("limit open files", &error.into()))
}

/// Mounts a file system of the kernel; makes the folder if it is not there.
///
/// # Errors
/// The kernel has no such file system, or the folder cannot be made.
pub fn mount_on(kind: &str, target: &str) -> io::Result<()> {
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(said(target, &error));
        }
        _ => {}
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(kind, target, kind, flags, None)
        .map_err(|error| said(&format!("mount {kind} on {target}"), &error.into()))
}

/// Ends the machine if this is its first process, which the parent sees as the end of the enclave.
/// The kernel would end it too, with a report of our registers on the console.
pub fn end() {
    if is_init() {
        // What was said last must be read; a console that is not there cannot be waited for.
        let _ = tcdrain(stderr());
        let refused = reboot(RebootCommand::Restart);
        eprintln!("sigil-enclave: reboot: {refused:?}");
    }
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_than_the_first_is_left_alone() {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        assert!(!is_init());
        prepare().unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Nofile), limit);
        end();
    }

    #[test]
    fn a_mount_that_fails_names_kind_and_folder() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new").display().to_string();
        let error = mount_on("no-such-file-system", &target).unwrap_err().to_string();
        assert!(error.contains(&format!("mount no-such-file-system on {target}: ")), "{error}");
    }
}
