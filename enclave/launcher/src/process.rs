//! An enclave as a child process that cannot outlive its launcher.
#![allow(unsafe_code, reason = "a hook between fork and exec")]

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use sigil_enclave_client::EnclaveAddress;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What an enclave gets to end by itself: signatures under way take milliseconds.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// A running enclave process. Dropping it kills it.
#[derive(Debug)]
pub struct EnclaveProcess {
    child: Child,
}

/// Lets nobody of this user read this process, and no core file of it be written: both hold the
/// claim. A limit of zero is not enough, since a node may pipe cores to a program whatever the
/// limit. The enclave is a program of its own and does the same.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

impl EnclaveProcess {
    /// Starts `executable serve --pins PINS --listen ADDRESS --workers N`.
    ///
    /// # Errors
    /// The executable cannot be started.
    pub fn start(
        executable: &Path,
        pins: &Path,
        listen: &EnclaveAddress,
        workers: u16,
    ) -> io::Result<Self> {
        let mut command = Command::new(executable);
        command.arg("serve").arg("--pins").arg(pins);
        command.arg("--listen").arg(listen.to_string());
        command.arg("--workers").arg(workers.to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        // SAFETY: the hook makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
            });
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Its process id, as long as it has not been seen to end.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Waits until the process has ended and says how.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Asks the process to end, and ends it after [`STOP_TIME_MAX`].
    pub async fn stop(mut self) {
        let pid = self.pid().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended meanwhile, which is what we want.
            let _gone = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_TIME_MAX, self.child.wait()).await.is_err() {
            tracing::warn!(limit = ?STOP_TIME_MAX, "enclave did not stop in time, killing it");
            if let Err(error) = self.child.kill().await {
                tracing::error!(%error, "cannot kill the enclave");
            }
        }
    }
}
