//! Child processes that end with their owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::net;
use rustix::thread::set_thread_res_uid;

/// A running child. Dropping it kills it with SIGKILL and waits.
pub(crate) struct Process {
    child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. No AWS setting of the caller reaches it.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to end with SIGTERM.
    pub(crate) fn terminate(&self) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills its first child: the enclave is one of the launcher's.
    pub(crate) fn kill_child(&self) {
        kill_child_of(self.id());
    }
}

/// Kills the first child of process `id`.
pub(crate) fn kill_child_of(id: u32) {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let child = children.split_whitespace().next().expect("it has a child").parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

impl Process {
    /// `hack/test` searches what all processes of a run have logged for test secrets.
    fn keep_log(&self) {
        let Some(folder) = std::env::var_os("SIGIL_TEST_LOGS") else { return };
        let name = self.log.file_name().unwrap_or_default().display().to_string();
        let kept = Path::new(&folder).join(format!("{}-{}-{name}", std::process::id(), self.id()));
        std::fs::copy(&self.log, &kept)
            .unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.keep_log();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            eprintln!("--- end of {}\n{}", self.log.display(), tail.join("\n"));
        }
    }
}

/// Tests with many connections hold the clients' ends of them too.
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).unwrap();
}

/// Listens at `path` as another user. A socket belongs to whoever calls `listen`, and on Linux each
/// thread has a user of its own.
pub(crate) fn listen_as(uid: u32, path: &Path) -> tokio::net::UnixListener {
    let socket = net::socket(net::AddressFamily::UNIX, net::SocketType::STREAM, None).unwrap();
    net::bind(&socket, &net::SocketAddrUnix::new(path).unwrap()).unwrap();
    let listening = std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(uid);
        set_thread_res_uid(user, user, user).unwrap_or_else(|error| {
            panic!("this test acts as two users and needs root, as in `sudo -E make test`: {error}")
        });
        net::listen(&socket, 16).unwrap();
        std::os::unix::net::UnixListener::from(socket)
    });
    let listener = listening.join().expect("a listener of another user; see above");
    listener.set_nonblocking(true).unwrap();
    tokio::net::UnixListener::from_std(listener).unwrap()
}

/// A binary of the workspace, beside the test's own executable.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing; build it first: cargo build --bins -p {name}",
        path.display()
    );
    path
}
