//! A child process that ends with its owner.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::clock;

/// Time that a process has until it says what is waited for. Under valgrind all takes fifty times as long.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {}", Path::new(command.get_program()).display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of its output has an answer.
    pub(crate) fn wait_for<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(found) = text.lines().find_map(&read) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", text.trim_end());
            }
            clock::sleep(Duration::from_millis(20));
        }
        bail!("not in time; see {}", self.log.display())
    }

    /// Asks it to end and waits.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(id) = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or is ended now; nobody is left to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
