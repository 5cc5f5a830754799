//! The measured enclave as its parent sees it: a child process, perhaps under strace or valgrind.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use sigil_enclave_image::pins::VerifyMode;
use tempfile::TempDir;

use crate::kms::Kms;

/// Name of the first signing thread.
const WORKER: &str = "worker-0";

/// A running enclave. It ends when this is dropped.
pub(crate) struct Enclave {
    pub(crate) kms: Kms,
    pub(crate) socket: PathBuf,
    child: Child,
    /// The enclave ends when this is closed, and answers what is written to it.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _folder: TempDir,
}

/// Checks of signatures that an enclave has timed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    pub(crate) signatures: u64,
    pub(crate) ns: u64,
}

impl Enclave {
    /// Starts one with one worker; `wrapper` is a program with its arguments that runs it, or nothing.
    pub(crate) fn start(wrapper: &[OsString], verify_mode: VerifyMode) -> Result<Self> {
        Self::start_with(wrapper, verify_mode, 1)
    }

    /// The same with this many workers.
    pub(crate) fn start_with(
        wrapper: &[OsString],
        verify_mode: VerifyMode,
        workers: usize,
    ) -> Result<Self> {
        let kms = Kms::start(verify_mode)?;
        let folder = tempfile::tempdir().context("make a temporary folder")?;
        let (pins, socket) = (folder.path().join("pins.cbor"), folder.path().join("socket"));
        std::fs::write(&pins, &kms.pins).context("write the pins")?;
        let this = std::env::current_exe().context("find the own executable")?.into_os_string();
        let mut words = wrapper.iter().cloned().chain([this]);
        let program = words.next().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(words)
            .args(["enclave", "--workers", &workers.to_string(), "--pins"])
            .arg(&pins)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut started = Self { kms, socket, child, questions, answers, _folder: folder };
        ensure!(started.answer()? == "ready", "the enclave did not start");
        Ok(started)
    }

    /// What the enclave has sampled of its checks so far.
    pub(crate) fn checks(&mut self) -> Result<Checks> {
        let questions = self.questions.as_mut().context("the enclave is stopped")?;
        writeln!(questions).context("ask the enclave")?;
        let answer = self.answer()?;
        let (signatures, ns) = answer.split_once(' ').context("the enclave's answer")?;
        Ok(Checks { signatures: signatures.parse()?, ns: ns.parse()? })
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read from the enclave")?;
        Ok(line.trim_end().to_owned())
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
        self.questions = None;
        let status = self.child.wait().context("wait for the enclave")?;
        ensure!(status.success(), "the enclave ended with {status}");
        Ok(())
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        self.questions = None;
        // It has ended already, or is ended now; nobody is left to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
