//! A PostgreSQL server with the store's tables, made as their owner makes them.

use std::path::Path;
use std::process::Command;

use devpostgres::{SUPERUSER, Server};

/// The role that dataplanes work as.
const ROLE: &str = "signer";

/// A server that lives as long as this.
pub(crate) struct Database {
    pub(crate) server: Server,
    /// Others that may take over; in the order of the settings.
    standbys: Vec<std::path::PathBuf>,
}

impl Database {
    /// Without tables; [`Database::migrate`] makes them.
    pub(crate) fn start() -> Self {
        let server = Server::start(&[]).unwrap();
        server.sql(&format!("CREATE ROLE {ROLE} LOGIN")).unwrap();
        Self { server, standbys: Vec::new() }
    }

    /// A standby that every commit waits for from now on.
    pub(crate) fn synchronous_standby(&mut self) -> Server {
        let standby = self.server.standby("other").unwrap();
        self.server.sql("ALTER SYSTEM SET synchronous_standby_names = 'other'").unwrap();
        self.server.sql("SELECT pg_reload_conf()").unwrap();
        self.standbys.push(socket_of(&standby));
        standby
    }

    /// The value of `store` in a configuration.
    pub(crate) fn settings(&self) -> String {
        let own = socket_of(&self.server);
        let sockets = std::iter::once(&own).chain(&self.standbys);
        let addresses: Vec<_> = sockets.map(|path| format!("'unix:{}'", path.display())).collect();
        format!(
            "{{postgres: {{addresses: [{}], database: postgres, user: {ROLE}, sslMode: disable, \
             acceptSingleNodeDurability: true, connectTimeoutMs: 1000, acquireTimeoutMs: 1000, \
             statementTimeoutMs: 1000}}}}",
            addresses.join(", ")
        )
    }

    /// Makes the tables with the command that operators use, and the configuration of a dataplane.
    pub(crate) fn migrate(&self, config: &Path) {
        let tables = "SELECT to_regclass('sigil.key') IS NULL";
        assert_eq!(self.server.sql(tables).unwrap(), "t", "nobody made them");
        let output = Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"))
            .args(["ctl", "store", "migrate", "--owner", SUPERUSER, "--grant-to", ROLE, "--config"])
            .arg(config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["version"], 1);
    }
}

fn socket_of(server: &Server) -> std::path::PathBuf {
    server.folder().join(format!(".s.PGSQL.{}", server.port()))
}
