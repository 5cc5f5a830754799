//! Where sealed keys are kept: one file of this machine, or a PostgreSQL server that members share.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the embedded store is unless the configuration says otherwise.
const EMBEDDED_PATH: &str = "/var/lib/sigil/store";
/// PostgreSQL cuts longer names.
const NAME_BYTES_MAX: usize = 63;
/// Connections of one member. PostgreSQL gives each a process, and has 100 of them by default.
const CONNECTIONS_MAX: usize = 64;
/// A longer wait outlives every request.
const TIMEOUT_MS_MAX: u64 = 60_000;

/// Where sealed keys are kept: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StoreSettings {
    /// One file on this machine.
    pub embedded: Embedded,
    /// A server for several members; used when it has addresses.
    pub postgres: Postgres,
}

/// The embedded store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Embedded {
    /// Directory of the store, made with mode 0700 if absent; absent: /var/lib/sigil/store.
    pub path: Option<PathBuf>,
}

/// A PostgreSQL database. The password comes from `passwordFile` or the environment, never from here.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Postgres {
    /// Servers in the order in which they are tried; the first that is no standby is used.
    pub addresses: Vec<PostgresAddress>,
    /// Name of the database.
    pub database: String,
    /// Name of the role.
    pub user: String,
    /// Schema of the tables, 1 to 63 of a-z 0-9 _.
    pub schema: String,
    /// File with the password, read at every connection; absent: `PGPASSWORD`, or none.
    pub password_file: Option<PathBuf>,
    /// How the connection is protected.
    pub ssl_mode: SslMode,
    /// Certificates, PEM, one of which must have signed the server's; absent: Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// Connections at most, 1..=64.
    pub connections: usize,
    /// One connection: TCP, TLS, authentication.
    pub connect_timeout_ms: u64,
    /// How long a request waits for a connection.
    pub acquire_timeout_ms: u64,
    /// How long a request waits for one statement.
    pub statement_timeout_ms: u64,
    /// Writes are taken although no synchronous standby has them.
    pub accept_single_node_durability: bool,
}

/// `host:port`, or `unix:/path` of the server's socket file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum PostgresAddress {
    /// Name or IP address, and port.
    Tcp(String, u16),
    /// The socket file, `.s.PGSQL.5432` in PostgreSQL's folder.
    Unix(PathBuf),
}

/// How connections are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// TLS 1.3; certificate and name are verified.
    #[default]
    VerifyFull,
    /// Cleartext, on this machine only.
    Disable,
}

/// The engine that is configured.
#[derive(Clone, Copy, Debug)]
pub enum Engine<'c> {
    /// Directory of the embedded store.
    Embedded(&'c Path),
    /// A PostgreSQL database.
    Postgres(&'c Postgres),
}

// === impl StoreSettings ===

impl StoreSettings {
    /// Which engine is meant.
    pub fn engine(&self) -> Engine<'_> {
        if self.postgres.addresses.is_empty() {
            return Engine::Embedded(
                self.embedded.path.as_deref().unwrap_or(Path::new(EMBEDDED_PATH)),
            );
        }
        Engine::Postgres(&self.postgres)
    }

    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        if let Some(path) = &self.embedded.path {
            if !path.is_absolute() {
                errors.push("store.embedded.path: must be an absolute path".to_owned());
            }
            if !self.postgres.addresses.is_empty() {
                errors.push(
                    "store: both embedded.path and postgres.addresses are set; remove one, keys are \
                     kept in one place"
                        .to_owned(),
                );
            }
        }
        if self.postgres != Postgres::default() {
            self.postgres.validate(errors);
        }
    }
}

// === impl Postgres ===

impl Postgres {
    /// Bound of one connection.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// Bound of the wait for a connection.
    pub fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }

    /// Bound of the wait for a statement.
    pub fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms)
    }

    fn validate(&self, errors: &mut Vec<String>) {
        let mut refuse = |path: &str, why: String| {
            errors.push(format!("store.postgres.{path}: {why}"));
        };
        if self.addresses.is_empty() {
            refuse("addresses", "required; name at least one server as host:port".to_owned());
        }
        let remote = self.addresses.iter().find(|address| !address.is_local());
        if let (SslMode::Disable, Some(remote)) = (self.ssl_mode, remote) {
            refuse(
                "sslMode",
                format!(
                    "disable is for 127.0.0.1, [::1] and unix:/path only, and {remote} is none of them; \
                     use verify-full"
                ),
            );
        }
        let unix = self.addresses.iter().find(|a| matches!(a, PostgresAddress::Unix(_)));
        if let (SslMode::VerifyFull, Some(unix)) = (self.ssl_mode, unix) {
            refuse("sslMode", format!("PostgreSQL speaks no TLS on {unix}; use disable"));
        }
        for (path, name) in [("database", &self.database), ("user", &self.user)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
                refuse(path, format!("expected 1 to {NAME_BYTES_MAX} bytes"));
            }
        }
        if !schema_is_valid(&self.schema) {
            refuse(
                "schema",
                format!(
                    "`{}`: expected 1 to {NAME_BYTES_MAX} of a-z 0-9 _, the first no digit, and not \
                     pg_",
                    self.schema
                ),
            );
        }
        for (path, file) in [("passwordFile", &self.password_file), ("caFile", &self.ca_file)] {
            if file.as_ref().is_some_and(|file| !file.is_absolute()) {
                refuse(path, "must be an absolute path".to_owned());
            }
        }
        let mut bound = |path: &str, value: u64, high: u64| {
            if !(1..=high).contains(&value) {
                refuse(path, format!("{value} is not in 1..={high}"));
            }
        };
        bound("connections", self.connections as u64, CONNECTIONS_MAX as u64);
        bound("connectTimeoutMs", self.connect_timeout_ms, TIMEOUT_MS_MAX);
        bound("acquireTimeoutMs", self.acquire_timeout_ms, TIMEOUT_MS_MAX);
        bound("statementTimeoutMs", self.statement_timeout_ms, TIMEOUT_MS_MAX);
    }
}

fn schema_is_valid(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("pg_")
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            database: "sigil".to_owned(),
            user: "sigil".to_owned(),
            schema: "sigil".to_owned(),
            password_file: None,
            ssl_mode: SslMode::default(),
            ca_file: None,
            connections: 8,
            connect_timeout_ms: 2_000,
            acquire_timeout_ms: 1_000,
            statement_timeout_ms: 2_000,
            accept_single_node_durability: false,
        }
    }
}

// === impl PostgresAddress ===

impl PostgresAddress {
    /// True where nobody but this machine can listen. A name may resolve to anything.
    fn is_local(&self) -> bool {
        match self {
            Self::Tcp(host, _) => host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

impl TryFrom<String> for PostgresAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(format!("`{text}`: the path of a unix socket must be absolute"))
            };
        }
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
            (!host.is_empty()).then_some(Self::Tcp(host.to_owned(), port.parse().ok()?))
        });
        parsed.ok_or_else(|| format!("`{text}` is neither host:port nor unix:/path"))
    }
}

impl From<PostgresAddress> for String {
    fn from(address: PostgresAddress) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(text: &str) -> Vec<String> {
        let settings: StoreSettings = serde_yaml_ng::from_str(text).unwrap();
        let mut errors = Vec::new();
        settings.validate(&mut errors);
        errors
    }

    #[test]
    fn exactly_one_engine_is_meant() {
        let engine = |text: &str| {
            let settings: StoreSettings = serde_yaml_ng::from_str(text).unwrap();
            format!("{:?}", settings.engine())
        };
        assert!(engine("{}").contains(EMBEDDED_PATH));
        assert!(engine("embedded: {path: /a}").contains("/a"));
        assert!(engine("postgres: {addresses: ['db:5432']}").starts_with("Postgres"));
        let both = errors_of("{embedded: {path: /a}, postgres: {addresses: ['db:5432']}}");
        assert!(both[0].starts_with("store: both"), "{both:?}");
    }

    #[test]
    fn each_error_names_its_field_and_what_to_do() {
        let refused = [
            ("database: sigils", "addresses", "name at least one server"),
            ("addresses: ['db:5432']\n  sslMode: disable", "sslMode", "use verify-full"),
            ("addresses: ['localhost:5432']\n  sslMode: disable", "sslMode", "use verify-full"),
            ("addresses: ['unix:/run/x']", "sslMode", "use disable"),
            ("addresses: ['db:1']\n  schema: Sigil", "schema", "a-z 0-9 _"),
            ("addresses: ['db:1']\n  schema: pg_x", "schema", "not pg_"),
            ("addresses: ['db:1']\n  user: ''", "user", "1 to 63"),
            ("addresses: ['db:1']\n  passwordFile: secret", "passwordFile", "absolute"),
            ("addresses: ['db:1']\n  caFile: ca", "caFile", "absolute"),
            ("addresses: ['db:1']\n  connections: 0", "connections", "1..=64"),
            ("addresses: ['db:1']\n  statementTimeoutMs: 0", "statementTimeoutMs", "1..="),
        ];
        for (text, field, fix) in refused {
            let errors = errors_of(&format!("postgres:\n  {text}"));
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].starts_with(&format!("store.postgres.{field}: ")), "{errors:?}");
            assert!(errors[0].contains(fix), "{errors:?}");
        }
        let accepted = [
            "addresses: ['db-0.example:5432', 'db-1.example:5432']",
            "addresses: ['127.0.0.1:5432', '[::1]:5432', 'unix:/run/x']\n  sslMode: disable",
        ];
        for text in accepted {
            assert_eq!(errors_of(&format!("postgres:\n  {text}")), Vec::<String>::new());
        }
    }

    #[test]
    fn addresses_have_one_spelling() {
        for text in ["db:5432", "[::1]:5432", "unix:/run/.s.PGSQL.5432"] {
            let address = PostgresAddress::try_from(text.to_owned()).unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["db", ":5432", "db:port", "unix:run", "[::1:5432"] {
            assert!(PostgresAddress::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
