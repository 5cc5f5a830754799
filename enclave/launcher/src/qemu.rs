//! An enclave image in QEMU's `nitro-enclave` machine: a real boundary without Nitro hardware, for
//! development. Two processes a boot: QEMU, and `vhost-device-vsock`, which gives the guest's vsock
//! a unix socket on this side.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_protocol::bounds::{ENCLAVE_PORT, HEARTBEAT_PORT};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::process::Process;
use crate::socket::{AbstractName, SocketName};
use crate::supervisor::{Boot, Launch, LauncherError, Listener};

mod bridge;
mod heartbeat;

/// From start to the first answer: the kernel boots in a second or two, on a busy machine in ten.
const LISTEN_TIME_MAX: Duration = Duration::from_mins(1);
/// For `vhost-device-vsock` to make its socket, which QEMU wants at its start.
const SOCKET_TIME_MAX: Duration = Duration::from_secs(5);
const SOCKET_PERIOD: Duration = Duration::from_millis(5);
/// Bytes of the console that are repeated in the log when a boot ends.
const CONSOLE_TAIL_BYTES: u64 = 2_048;
/// So that the machine ends with its first process, and that the kernel believes in a timer which a
/// busy host serves late. Not measured.
const APPEND: &str = "panic=-1 reboot=t no_timer_check";

/// What to run and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The enclave image.
    #[arg(long)]
    pub eif: PathBuf,
    /// QEMU with its machine `nitro-enclave`.
    #[arg(long)]
    pub qemu: PathBuf,
    /// Folder of QEMU's firmware.
    #[arg(long)]
    pub firmware: PathBuf,
    /// vhost-device-vsock.
    #[arg(long)]
    pub vhost_device_vsock: PathBuf,
    /// Context id of the enclave.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..))]
    pub cid: u32,
    /// Memory of the enclave, MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..))]
    pub memory_mib: u32,
    /// Virtual CPUs, which are signing workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cpus: u16,
    /// Folder of console.log and sockets, for this launcher alone.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where the claim is handed over to `serve`: @NAME or a path.
    #[arg(long)]
    pub handoff: SocketName,
    /// ARN of the parent's role: PCR3.
    #[arg(long, default_value = "arn:aws:iam::111122223333:role/sigil-test-parent")]
    pub parent_role: String,
    /// Id of the parent instance: PCR4.
    #[arg(long, default_value = "i-00000000000000000")]
    pub parent_id: String,
    /// Where `serve` reaches the enclave if it does not share --dir, as in a pod: @NAME, in the
    /// network namespace of both.
    #[arg(long)]
    pub bridge: Option<AbstractName>,
    /// More arguments for the guest's kernel. They are not measured.
    #[arg(long, default_value = "")]
    pub append: String,
}

/// A running machine. Dropping it kills both processes.
#[derive(Debug)]
pub struct Machine {
    vsock: Process,
    qemu: Process,
    console: PathBuf,
    heartbeat: JoinHandle<()>,
    listens: watch::Receiver<bool>,
    bridge: Option<JoinHandle<()>>,
}

impl Machine {
    /// QEMU's process id, as long as it has not been seen to end.
    pub fn qemu_pid(&self) -> Option<i32> {
        self.qemu.pid()
    }

    /// Waits for the enclave's heartbeat. `vhost-device-vsock` loses its way when it is asked often
    /// for connections to a guest that has no driver yet.
    pub fn listens(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut listens = self.listens.clone();
        async move {
            if listens.wait_for(|listens| *listens).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Settings {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The file that the guest's console goes to.
    pub fn console(&self) -> PathBuf {
        self.file("console.log")
    }

    fn vsock_command(&self) -> Command {
        let mut vm = OsString::from(format!("guest-cid={},socket=", self.cid));
        vm.push(self.file("vhost.sock"));
        vm.push(",uds-path=");
        vm.push(self.file("vm.vsock"));
        let mut command = Command::new(&self.vhost_device_vsock);
        command.arg("--vm").arg(vm);
        command
    }

    fn qemu_command(&self) -> Command {
        let mut command = Command::new(&self.qemu);
        command.arg("-L").arg(&self.firmware);
        // With SHA-NI and AVX2, as the instances that have enclaves.
        command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot"]);
        command.args(["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string()]);
        command.arg("-machine").arg(format!(
            "nitro-enclave,vsock=vsock,id={0}-enc0000000000000000,parent-id={0},parent-role={1}",
            self.parent_id, self.parent_role
        ));
        command.arg("-chardev").arg(option("socket,id=vsock,path=", &self.file("vhost.sock")));
        command.arg("-serial").arg(option("file:", &self.console()));
        command.arg("-kernel").arg(&self.eif);
        command.arg("-append").arg(format!("{APPEND} {}", self.append));
        command
    }
}

/// An option of QEMU's; a comma in a value is written twice there.
fn option(name: &str, path: &Path) -> OsString {
    OsString::from(format!("{name}{}", path.display().to_string().replace(',', ",,")))
}

impl Launch for Settings {
    type Boot = Machine;

    fn handoff(&self) -> &SocketName {
        &self.handoff
    }

    fn address(&self) -> EnclaveAddress {
        EnclaveAddress::VhostVsock { path: self.file("vm.vsock"), port: ENCLAVE_PORT }
    }

    fn address_of_serve(&self) -> EnclaveAddress {
        let bridge = self.bridge.clone().map(|AbstractName(name)| name);
        bridge.map_or_else(|| self.address(), EnclaveAddress::UnixAbstract)
    }

    fn listen_time_max(&self) -> Duration {
        LISTEN_TIME_MAX
    }

    async fn start(&self) -> Result<Machine, LauncherError> {
        let in_dir = |error| LauncherError::program("--dir", &self.dir)(error);
        std::fs::create_dir_all(&self.dir).map_err(in_dir)?;
        let eif = std::fs::metadata(&self.eif);
        eif.map_err(LauncherError::program("--eif", &self.eif))?;
        for stale in ["vhost.sock", "vm.vsock", "console.log"] {
            match std::fs::remove_file(self.file(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_dir(error)),
                _ => {}
            }
        }
        // What the guest sends to this port of its parent comes here.
        let port = SocketName::Path(self.file(&format!("vm.vsock_{HEARTBEAT_PORT}")));
        let heartbeat = port.listen().map_err(in_dir)?;
        let bridge = self.bridge.as_ref().map(AbstractName::listen).transpose();
        let bridge = bridge.map_err(LauncherError::Bridge)?;
        let program = LauncherError::program("--vhost-device-vsock", &self.vhost_device_vsock);
        let mut vsock = Process::start(self.vsock_command()).map_err(program)?;
        if let Err(error) = appears(&self.file("vhost.sock"), &mut vsock).await {
            let program = LauncherError::program("--vhost-device-vsock", &self.vhost_device_vsock);
            return Err(program(error));
        }
        let program = LauncherError::program("--qemu", &self.qemu);
        let qemu = Process::start(self.qemu_command()).map_err(program)?;
        let (says, listens) = watch::channel(false);
        let heartbeat = tokio::spawn(heartbeat::answer(heartbeat, says));
        let bridge = bridge.map(|listener| tokio::spawn(bridge::serve(listener, self.address())));
        Ok(Machine { vsock, qemu, console: self.console(), heartbeat, listens, bridge })
    }
}

/// Waits for the socket of a process.
async fn appears(socket: &Path, process: &mut Process) -> io::Result<()> {
    let deadline = Instant::now() + SOCKET_TIME_MAX;
    while !socket.exists() {
        tokio::select! {
            status = process.ended() => return Err(io::Error::other(format!("ended: {status}"))),
            () = sleep(SOCKET_PERIOD) => {}
        }
        if Instant::now() >= deadline {
            let why = format!("no {} within {SOCKET_TIME_MAX:?}", socket.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
    Ok(())
}

impl Boot for Machine {
    fn listener(&self) -> Listener {
        Listener::Process(self.vsock.pid())
    }

    fn listening(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.listens())
    }

    async fn ended(&mut self) -> String {
        let how = tokio::select! {
            status = self.qemu.ended() => format!("QEMU: {status}"),
            status = self.vsock.ended() => format!("vhost-device-vsock: {status}"),
        };
        format!("{how}; its console ends with: {}", tail(&self.console))
    }

    async fn stop(self) {
        self.heartbeat.abort();
        if let Some(bridge) = self.bridge {
            bridge.abort();
        }
        tokio::join!(self.qemu.stop(), self.vsock.stop());
    }
}

/// The end of a console, on one line.
fn tail(console: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || {
        let mut file = std::fs::File::open(console)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(CONSOLE_TAIL_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::trim).collect::<Vec<_>>().join(" | ")
}
