//! Child processes that cannot outlive their launcher, and the enclave that is one of them.
#![allow(unsafe_code, reason = "a hook between fork and exec")]

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use sigil_enclave_client::EnclaveAddress;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::socket::SocketName;
use crate::supervisor::{Boot, Launch, LauncherError, Listener};

/// What a child gets to end by itself: signatures under way take milliseconds.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// From start to the first answer: the process reads its pins and makes its keys.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(20);

/// What to run and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Enclave executable; started as `EXECUTABLE serve --pins FILE --listen ADDRESS --workers N`.
    #[arg(long)]
    pub enclave: PathBuf,
    /// Its pins (pins.cbor).
    #[arg(long)]
    pub pins: PathBuf,
    /// Where it listens: unix:@NAME or unix:PATH.
    #[arg(long)]
    pub listen: EnclaveAddress,
    /// Where the claim is handed over to `serve`: @NAME or a path.
    #[arg(long)]
    pub handoff: SocketName,
    /// Signing workers of the enclave.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
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

impl Process {
    /// Starts a command without input.
    ///
    /// # Errors
    /// The executable cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
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

impl Launch for Settings {
    type Boot = Process;

    fn handoff(&self) -> &SocketName {
        &self.handoff
    }

    fn address(&self) -> EnclaveAddress {
        self.listen.clone()
    }

    fn listen_time_max(&self) -> Duration {
        LISTEN_TIME_MAX
    }

    async fn start(&self) -> Result<Process, LauncherError> {
        let mut command = Command::new(&self.enclave);
        command.arg("serve").arg("--pins").arg(&self.pins);
        command.arg("--listen").arg(self.listen.to_string());
        command.arg("--workers").arg(self.workers.to_string());
        Process::start(command).map_err(LauncherError::program("--enclave", &self.enclave))
    }
}

impl Boot for Process {
    fn listener(&self) -> Listener {
        Listener::Process(self.pid())
    }

    async fn ended(&mut self) -> String {
        Self::ended(self).await
    }

    async fn stop(self) {
        Self::stop(self).await;
    }
}
