//! Keeps the cluster's keys current. The last good set stays in force whatever happens to the source.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kube::Client;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Authenticator, KeySet};
use crate::pool::backoff::{Backoff, random};

/// Where API servers publish the keys of service accounts.
const JWKS_PATH: &str = "/openid/v1/jwks";
/// Bytes of a file of keys.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Between two looks while there is no set yet, first and at most: callers are waiting for it.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Tokens of unknown keys ask for a look, and anybody can make one up: this often at most.
const WANTED_INTERVAL: Duration = Duration::from_secs(10);

/// Finds the way to the API server. It may not be there yet, and what it takes (token, certificates)
/// may be replaced, so each look asks anew.
pub(crate) type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Client, String>> + Send + Sync>;

/// Where keys come from.
pub(crate) enum Source {
    /// The API server.
    ApiServer(Connect),
    /// A file in the same form.
    File(PathBuf),
}

// === impl Source ===

impl Source {
    async fn read(&self) -> Result<KeySet, String> {
        let json = match self {
            Self::ApiServer(connect) => {
                let client = connect().await?;
                let request = http::Request::get(JWKS_PATH).body(Vec::new());
                let request = request.map_err(|error| error.to_string())?;
                client.request_text(request).await.map_err(|error| error.to_string())?.into_bytes()
            }
            Self::File(path) => {
                let length = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?;
                if length.len() > FILE_BYTES_MAX {
                    return Err(format!("longer than {FILE_BYTES_MAX} bytes"));
                }
                tokio::fs::read(path).await.map_err(|error| error.to_string())?
            }
        };
        KeySet::parse(&json).map_err(|error| error.to_string())
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Follows the keys for ever, whatever the first look finds.
    pub(crate) async fn follow_keys(self: Arc<Self>, source: Source, every: Duration) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let looked = Instant::now();
            let is_known = self.look(&source).await;
            let pause = if is_known { every } else { backoff.wait(random()).min(every) };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => sleep_until(looked + WANTED_INTERVAL).await,
            }
        }
    }

    /// True if there is a set, this one or an earlier one.
    async fn look(&self, source: &Source) -> bool {
        match source.read().await {
            Ok(keys) => {
                self.metrics.auth_keys_read("ok");
                let before = self.keys.load_full();
                let same = before.is_some_and(|before| before.ids().eq(keys.ids()));
                if !same {
                    let ids: Vec<_> = keys.ids().collect();
                    tracing::info!(?ids, "keys for tokens");
                }
                self.keys.store(Some(Arc::new(keys)));
            }
            Err(error) => {
                self.metrics.auth_keys_read("failed");
                tracing::warn!(
                    error,
                    "keys for tokens cannot be read; the last good ones are kept"
                );
            }
        }
        self.keys.load().is_some()
    }
}
