//! Real PostgreSQL servers in folders of their own, on a unix socket and a loopback port. They can be
//! paused, killed and promoted, and end with their owner.

use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

mod account;
mod binaries;
mod tls;

pub use account::Account;
pub use binaries::Binaries;
pub use tls::Certificates;

/// The role that owns everything, without a password on the unix socket and on loopback.
pub const SUPERUSER: &str = "postgres";
/// Longest wait for a server; generous, since machines of tests are shared.
const PATIENCE: Duration = Duration::from_mins(1);

/// What went wrong, with what to do about it.
#[derive(Debug)]
pub struct Error(pub String);

/// A running server. Dropping it kills it.
pub struct Server {
    binaries: Binaries,
    account: Account,
    folder: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    process: Option<Child>,
}

// === impl Error ===

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

// === impl Server ===

impl Server {
    /// Makes a cluster and starts it with `settings` of `postgresql.conf` beside the defaults.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start; the text says which and what to do.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let mut server = Self::prepare(settings)?;
        let data = server.data();
        run(server
            .tool("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale"])
            .arg(format!("--username={SUPERUSER}"))
            .arg("--pgdata")
            .arg(data))?;
        server.launch()?;
        Ok(server)
    }

    fn prepare(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let binaries = Binaries::find()?;
        let account = Account::find()?;
        let folder = tempfile::tempdir()?;
        account.own(folder.path())?;
        // Given back at once: another process could take it before the server does, which then does
        // not start and says so.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = settings.iter().map(owned).collect();
        Ok(Self { binaries, account, folder, port, settings, process: None })
    }

    /// The folder of its unix socket, its data and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// On 127.0.0.1, and part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.path(name));
        self.account.apply(&mut command);
        command.current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    /// Starts the server over the data that is there and waits until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer in time; the end of its log is in the text.
    pub fn launch(&mut self) -> Result<(), Error> {
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder().join("log"))?;
        let mut command = self.tool("postgres");
        command.arg("-D").arg(self.data());
        let own = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.folder().display().to_string()),
        ];
        for (name, value) in own {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        self.process = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ready = self.tool("pg_isready");
            ready.arg("-q").arg("-h").arg(self.folder()).arg("-p").arg(self.port.to_string());
            if ready.status()?.success() {
                return Ok(());
            }
            let ended = match &mut self.process {
                Some(process) => process.try_wait()?.is_some(),
                None => true,
            };
            if ended || Instant::now() > deadline {
                return Err(Error(format!("PostgreSQL does not answer: {}", self.log())));
            }
        }
    }

    /// Runs SQL as the superuser in `database` and gives what it prints, unaligned.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String, Error> {
        let mut command = self.tool("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER]);
        command.arg("-h").arg(self.folder()).arg("-p").arg(self.port.to_string());
        run(command.args(["-d", database, "-c", sql]))
    }

    /// Runs SQL as the superuser in the database `postgres`.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn sql(&self, sql: &str) -> Result<String, Error> {
        self.sql_in("postgres", sql)
    }

    /// Writes who may come in how, in the words of `pg_hba.conf`, and has it read.
    ///
    /// # Errors
    /// The file or the server.
    pub fn set_access(&self, lines: &str) -> Result<(), Error> {
        std::fs::write(self.data().join("pg_hba.conf"), lines)?;
        self.sql("SELECT pg_reload_conf()").map(drop)
    }

    /// SIGKILL to the server and everything it started, as when the machine dies.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<(), Error> {
        // A stopped postmaster makes no more children while they are counted.
        signal(&self.processes()?, Signal::STOP);
        let processes = self.processes()?;
        signal(&processes, Signal::KILL);
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        // Children of a dead parent are init's; the next start waits for them to let go of the memory.
        let deadline = Instant::now() + PATIENCE;
        while processes.iter().any(|pid| is_alive(*pid)) {
            if Instant::now() > deadline {
                return Err(Error("PostgreSQL's processes do not end".to_owned()));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Stops all its processes where they are; the kernel goes on to accept connections.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pause(&self) -> Result<(), Error> {
        signal(&self.processes()?, Signal::STOP);
        // Children that the postmaster made before it stopped.
        signal(&self.processes()?, Signal::STOP);
        Ok(())
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resume(&self) -> Result<(), Error> {
        signal(&self.processes()?, Signal::CONT);
        Ok(())
    }

    /// The postmaster and its children.
    fn processes(&self) -> Result<Vec<Pid>, Error> {
        let Some(process) = &self.process else { return Ok(Vec::new()) };
        let id = process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let ids = std::iter::once(id.to_string());
        let ids = ids.chain(children.split_whitespace().map(ToOwned::to_owned));
        Ok(ids.filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect())
    }

    /// A copy of this server that follows it, under the name `name` for `synchronous_standby_names`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn standby(&self, name: &str) -> Result<Self, Error> {
        let mut standby = Self::prepare(&[])?;
        standby.settings.clone_from(&self.settings);
        let mut connection = String::new();
        let _ = write!(
            connection,
            "host={} port={} user={SUPERUSER} application_name={name}",
            self.folder().display(),
            self.port
        );
        let data = standby.data();
        let mut copy = standby.tool("pg_basebackup");
        copy.args([
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            "--wal-method=stream",
        ]);
        run(copy.arg("--dbname").arg(&connection).arg("--pgdata").arg(data))?;
        standby.launch()?;
        Ok(standby)
    }

    /// Ends following: this one takes writes from now on.
    ///
    /// # Errors
    /// What `psql` says, or no promotion in time.
    pub fn promote(&self) -> Result<(), Error> {
        match self.sql("SELECT pg_promote()")?.as_str() {
            "t" => Ok(()),
            other => Err(Error(format!("pg_promote: {other}"))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn run(command: &mut Command) -> Result<String, Error> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error(format!("{}: {said}", command.get_program().display())))
}

fn signal(processes: &[Pid], signal: Signal) {
    for pid in processes {
        // One that ended by itself needs no signal.
        let _ = kill_process(*pid, signal);
    }
}

fn is_alive(pid: Pid) -> bool {
    // A zombie waits for its parent and does nothing any more.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_killed_started_again_paused_and_followed() {
        let mut server = Server::start(&[]).unwrap();
        server.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (7)").unwrap();
        server.kill().unwrap();
        assert!(server.sql("SELECT 1").is_err());
        server.launch().unwrap();
        assert_eq!(server.sql("SELECT i FROM t").unwrap(), "7");
        let standby = server.standby("other").unwrap();
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()").unwrap(), "t");
        server.kill().unwrap();
        standby.promote().unwrap();
        assert_eq!(standby.sql("INSERT INTO t VALUES (8) RETURNING i").unwrap(), "8");
    }

    #[test]
    fn a_missing_server_says_how_to_get_it() {
        let error = Binaries::find_in(&[]).unwrap_err();
        assert!(error.0.contains("hack/packages test"), "{error}");
    }
}
