//! The measured enclave as its parent sees it: a child process, perhaps under strace or valgrind.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};
use sigil_enclave_image::pins::VerifyMode;
use tempfile::TempDir;

use crate::kms::Kms;

/// Name of the one signing thread.
const WORKER: &str = "worker-0";

/// A running enclave with one worker. It ends when this is dropped.
pub(crate) struct Enclave {
    pub(crate) kms: Kms,
    pub(crate) socket: PathBuf,
    child: Child,
    /// The enclave ends when this is closed.
    lifeline: Option<ChildStdin>,
    _folder: TempDir,
}

impl Enclave {
    /// Starts one; `wrapper` is a program with its arguments that runs it, or nothing.
    pub(crate) fn start(wrapper: &[OsString], verify_mode: VerifyMode) -> Result<Self> {
        let kms = Kms::start(verify_mode)?;
        let folder = tempfile::tempdir().context("make a temporary folder")?;
        let (pins, socket) = (folder.path().join("pins.cbor"), folder.path().join("socket"));
        std::fs::write(&pins, &kms.pins).context("write the pins")?;
        let this = std::env::current_exe().context("find the own executable")?.into_os_string();
        let mut words = wrapper.iter().cloned().chain([this]);
        let program = words.next().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(words)
            .args(["enclave", "--workers", "1", "--pins"])
            .arg(&pins)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let lifeline = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
        let started = Self { kms, socket, child, lifeline, _folder: folder };
        let mut line = String::new();
        output.read_line(&mut line).context("read from the enclave")?;
        ensure!(line.trim_end() == "ready", "the enclave did not start");
        Ok(started)
    }

    /// Process id of the child: that of the wrapper, if the wrapper does not become the enclave.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Thread id of the signing worker.
    pub(crate) fn worker(&self) -> Result<u32> {
        let path = format!("/proc/{}/task", self.id());
        for entry in std::fs::read_dir(&path).with_context(|| format!("list {path}"))? {
            let entry = entry?;
            if std::fs::read_to_string(entry.path().join("comm"))?.trim() == WORKER {
                let name = entry.file_name();
                return name.to_string_lossy().parse().context("a thread id");
            }
        }
        anyhow::bail!("the enclave has no thread {WORKER}")
    }

    /// Ends it and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.lifeline = None;
        let status = self.child.wait().context("wait for the enclave")?;
        ensure!(status.success(), "the enclave ended with {status}");
        Ok(())
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        self.lifeline = None;
        // It has ended already, or is ended now; nobody is left to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
