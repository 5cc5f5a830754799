//! From an address to a session: connect, authenticate, make sure that it is the server and the store that
//! is meant.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::super::StoreError;
use super::durability::Durability;
use super::failure::Failure;
use super::schema::{self, Meta, Sql};
use super::session::{Session, Warned, drive};
use super::tls::{Handshake, connector};
use crate::config::{Postgres, PostgresAddress, SslMode};
use crate::metrics::Calls;

/// What the server shows of us in `pg_stat_activity`.
const APPLICATION: &str = "sigil-dataplane";
/// A firewall forgets silent connections after minutes; this keeps them, and finds those that ended.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes that nobody acknowledges for so long end the connection, and free what waits on it.
const UNACKNOWLEDGED_MAX_MS: u32 = 30_000;

/// What is asked of every new connection and, by the watch, ever again.
pub(super) const FACTS: &str = "SELECT pg_is_in_recovery(), current_setting('synchronous_commit'), \
     current_setting('synchronous_standby_names'), current_setting('fsync'), \
     current_setting('full_page_writes'), current_setting('transaction_read_only')";

/// Makes connections.
pub(super) struct Dialer {
    pub(super) settings: Postgres,
    pub(super) sql: Sql,
    /// Statements and connections.
    pub(super) calls: Arc<Calls>,
    tls: Option<TlsConnector>,
    /// Of the environment; a file is read at each connection.
    password: Option<Zeroizing<String>>,
    /// The address that answered last is asked first.
    first: AtomicUsize,
    /// The store of the first connection; another one is never read.
    store_id: OnceLock<String>,
}

// === impl Dialer ===

impl Dialer {
    /// A dialer; `password` is that of the environment.
    ///
    /// # Errors
    /// The file of the roots.
    pub(super) fn new(
        settings: Postgres,
        password: Option<Zeroizing<String>>,
        calls: Arc<Calls>,
    ) -> Result<Self, io::Error> {
        let tls = match settings.ssl_mode {
            SslMode::Disable => None,
            SslMode::VerifyFull => Some(connector(settings.ca_file.as_deref())?),
        };
        let sql = Sql::new(&settings.schema);
        let first = AtomicUsize::new(0);
        Ok(Self { settings, sql, calls, tls, password, first, store_id: OnceLock::new() })
    }

    /// A session with the first server that is no standby and holds this store.
    pub(super) async fn dial(&self) -> Result<(Session, Durability), StoreError> {
        let (client, durability, warned) = self.primary().await?;
        let meta = self.meta(&client).await?;
        let known = self.store_id.get_or_init(|| meta.store_id.clone());
        if *known != meta.store_id {
            return Err(StoreError::Unavailable(format!(
                "this is another store ({}), and not the one that was read before ({known}); point \
                 store.postgres.addresses to the right server",
                meta.store_id
            )));
        }
        let session = Session::new(client, warned, self.sql.clone(), self.calls.connected());
        Ok((session, durability))
    }

    async fn meta(&self, client: &Client) -> Result<Meta, StoreError> {
        let rows = client.query_typed(&self.sql.meta(), &[]).await;
        match rows.map_err(Failure::from) {
            Ok(rows) => match rows.first() {
                Some(row) => schema::check(row.get(0), row.get(1)),
                None => Err(StoreError::Corrupt("table meta is empty".to_owned())),
            },
            // Not corrupt: the tables of an empty database are missing because it is the wrong one or new.
            Err(Failure::Refused(StoreError::Corrupt(why))) => {
                Err(StoreError::Unavailable(format!(
                    "database {} holds no store ({why}); if it should, run `sigil-dataplane ctl store \
                     migrate` once",
                    self.settings.database
                )))
            }
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// A connection to the first server that is no standby. What a standby does not have yet would look
    /// as if it were missing.
    pub(super) async fn primary(&self) -> Result<(Client, Durability, Warned), StoreError> {
        let addresses = &self.settings.addresses;
        let first = self.first.load(Ordering::Relaxed);
        let mut reasons = Vec::with_capacity(addresses.len());
        let mut denied = false;
        for offset in 0..addresses.len() {
            let at = (first + offset) % addresses.len();
            let Some(address) = addresses.get(at) else { continue };
            let limit = self.settings.connect_timeout();
            let result = timeout(limit, self.open(address)).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!("no answer within {} ms", limit.as_millis())))
            });
            match result {
                Ok(found) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => {
                    denied |= matches!(error, StoreError::Denied(_));
                    reasons.push(format!("{address}: {}", bare(error)));
                }
            }
        }
        let reasons = reasons.join("; ");
        Err(if denied { StoreError::Denied(reasons) } else { StoreError::Unavailable(reasons) })
    }

    async fn open(
        &self,
        address: &PostgresAddress,
    ) -> Result<(Client, Durability, Warned), StoreError> {
        let (client, warned) = self.connect(address).await?;
        let (standby, durability) = facts(&client).await.map_err(Failure::into_error)?;
        if standby {
            return Err(StoreError::Unavailable("is a standby".to_owned()));
        }
        Ok((client, durability, warned))
    }

    async fn connect(&self, address: &PostgresAddress) -> Result<(Client, Warned), StoreError> {
        let config = self.config().await?;
        let failed = |error: io::Error| StoreError::Unavailable(error.to_string());
        match address {
            PostgresAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                start(&config, stream, None).await
            }
            PostgresAddress::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                prepare(&stream).map_err(failed)?;
                let handshake = self.tls.clone().map(|connector| {
                    let name = ServerName::try_from(host.clone());
                    name.map(|name| Handshake { connector, name })
                });
                let handshake = handshake
                    .transpose()
                    .map_err(|_| StoreError::Unavailable(format!("{host} is no host name")))?;
                start(&config, stream, handshake).await
            }
        }
    }

    async fn config(&self) -> Result<Config, StoreError> {
        let settings = &self.settings;
        let mut config = Config::new();
        config.user(&settings.user).dbname(&settings.database).application_name(APPLICATION);
        config.ssl_mode(match settings.ssl_mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        if let Some(path) = &settings.password_file {
            let text = tokio::fs::read(path).await.map(Zeroizing::new).map_err(|error| {
                let path = path.display();
                StoreError::Denied(format!("store.postgres.passwordFile {path}: {error}"))
            })?;
            config.password(text.trim_ascii_end());
        } else if let Some(password) = &self.password {
            config.password(password.as_bytes());
        }
        Ok(config)
    }
}

async fn start<S>(
    config: &Config,
    stream: S,
    handshake: Option<Handshake>,
) -> Result<(Client, Warned), StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error| Failure::from(error).into_error();
    let warned = Warned::default();
    let client = if let Some(handshake) = handshake {
        let (client, connection) = config.connect_raw(stream, handshake).await.map_err(failed)?;
        drive(connection, Arc::clone(&warned));
        client
    } else {
        let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(failed)?;
        drive(connection, Arc::clone(&warned));
        client
    };
    Ok((client, warned))
}

/// Asks for [`FACTS`]; the first of the two says whether the server is a standby.
pub(super) async fn facts(client: &Client) -> Result<(bool, Durability), Failure> {
    let rows = client.query_typed(FACTS, &[]).await?;
    let row = rows.first().ok_or_else(|| {
        Failure::Refused(StoreError::Unavailable("the server says nothing of itself".to_owned()))
    })?;
    let durability = Durability {
        synchronous_commit: row.get(1),
        synchronous_standby_names: row.get(2),
        fsync: row.get(3),
        full_page_writes: row.get(4),
        read_only: row.get(5),
    };
    Ok((row.get(0), durability))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX_MS)?;
    Ok(())
}

/// The text without its class, which stands in front of the whole list.
fn bare(error: StoreError) -> String {
    match error {
        StoreError::Denied(why) | StoreError::Corrupt(why) | StoreError::Unavailable(why) => why,
    }
}
