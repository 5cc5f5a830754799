//! Exchanging certificates while serving.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Contents, Tls, TlsError, Version};
use crate::metrics::Metrics;
use crate::status::{StatusWriter, TlsStatus};

/// How often the files are read. Their content is compared, not their times: notifications of the kernel
/// miss the file systems of other machines, and times and links say little in the volumes of
/// Kubernetes, where a whole directory is swapped by one link. Three small files cost some 100 µs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What one look found.
#[derive(Debug)]
enum Look {
    Same,
    Changed,
    /// Files that cannot be used, and which they were; absent if they could not be read.
    Broken(Option<Version>, TlsError),
}

impl Tls {
    /// Exchanges certificates when their files change, until `stop`.
    pub(crate) async fn follow(
        self: Arc<Self>,
        metrics: Arc<Metrics>,
        status: StatusWriter,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let report = |error: Option<String>| {
            let certificate_sha256 = self.fingerprint();
            let tls = Some(TlsStatus { certificate_sha256, reload_error: error });
            status.update(|status| status.tls = tls);
        };
        report(None);
        // Files are written one after the other, so what is broken at one look only is on its way.
        let mut broken: Option<Option<Version>> = None;
        let mut said = false;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.look()).await {
                Ok(Look::Same) => {
                    if said {
                        report(None);
                        tracing::info!("the certificate files are again those in use");
                    }
                    (broken, said) = (None, false);
                }
                Ok(Look::Changed) => {
                    (broken, said) = (None, false);
                    metrics.tls_reloaded(true);
                    report(None);
                    tracing::info!(
                        certificate_sha256 = self.fingerprint(),
                        "new certificates are in use"
                    );
                }
                Ok(Look::Broken(version, error)) => {
                    let again = broken == Some(version);
                    (broken, said) = (Some(version), said && again);
                    if again && !said {
                        said = true;
                        metrics.tls_reloaded(false);
                        report(Some(error.to_string()));
                        tracing::error!(%error, "new certificates cannot be used; the old ones stay in use");
                    }
                }
                Err(error) => tracing::error!(%error, "looking at certificates was cut short"),
            }
        }
    }

    /// Reads the files and takes them into use if they are new and whole.
    fn look(&self) -> Look {
        let contents: Contents = match self.files.read() {
            Ok(contents) => contents,
            Err(error) => return Look::Broken(None, error),
        };
        let version = contents.version();
        if version == self.current.load().version {
            return Look::Same;
        }
        match self.files.load(&contents) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                Look::Changed
            }
            Err(error) => Look::Broken(Some(version), error),
        }
    }
}
