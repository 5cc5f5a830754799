//! Settings that change while the process runs. The file is read again when its content has changed and
//! on SIGHUP; what may change is put into force, what may not is named, and a file with an error changes
//! nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::config::live::Live;
use crate::config::merge::merge;
use crate::config::{self, ConfigErrors};
use crate::metrics::{Metrics, ReloadResult};
use crate::status::StatusWriter;

/// How often the file is looked at. A few KiB a second cost nothing, and reading sees what watching a path
/// misses: the swap of links by which kubelet replaces a ConfigMap.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Where settings come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its content at the start.
    pub text: String,
    /// Looks a variable up.
    pub environment: fn(&str) -> Option<String>,
}

/// Keeps the settings in force up to date.
pub(crate) struct Reloader {
    pub(crate) source: Source,
    pub(crate) live: Arc<Live>,
    pub(crate) status: StatusWriter,
    pub(crate) metrics: Arc<Metrics>,
}

impl Reloader {
    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut unreadable = false;
        loop {
            let asked = tokio::select! {
                () = sleep(LOOK_PERIOD) => false,
                () = next(&mut hangup) => true,
            };
            match tokio::fs::read_to_string(&self.source.path).await {
                Ok(text) => {
                    unreadable = false;
                    if asked || text != self.source.text {
                        self.source.text = text;
                        self.take();
                    }
                }
                // Said once: it may be gone for as long as somebody edits it.
                Err(error) if asked || !unreadable => {
                    unreadable = true;
                    let path = self.source.path.display();
                    self.refuse(&ConfigErrors(vec![format!("{path}: {error}")]));
                }
                Err(_) => {}
            }
        }
    }

    /// Takes over what the newest text says.
    fn take(&self) {
        let in_force = self.live.snapshot();
        let asked = config::load(&self.source.text, self.source.environment);
        let merged = match asked.and_then(|asked| merge(&in_force, &asked)) {
            Ok(merged) => merged,
            Err(errors) => return self.refuse(&errors),
        };
        if !merged.applied.is_empty() {
            self.live.replace(merged.config);
        }
        self.metrics.reloaded(ReloadResult::Applied, merged.needs_restart.len());
        tracing::info!(
            applied = merged.applied.join(" "),
            needs_restart = merged.needs_restart.join(" "),
            "configuration read again"
        );
        self.status.update(|status| {
            status.config.reloads += u64::from(!merged.applied.is_empty());
            status.config.errors.clear();
            status.config.needs_restart = merged.needs_restart;
        });
    }

    fn refuse(&self, errors: &ConfigErrors) {
        self.metrics.reloaded(ReloadResult::Refused, 0);
        for error in &errors.0 {
            tracing::error!(error, "configuration refused; what is in force stays");
        }
        self.status.update(|status| status.config.errors.clone_from(&errors.0));
    }
}

/// The next signal; without a handler there is none.
async fn next(hangup: &mut Option<Signal>) {
    if let Some(hangup) = hangup
        && hangup.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(settings: &str) -> String {
        let pcr = "11".repeat(48);
        format!(
            "kms: {{region: r}}\nenclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', \
             pcr2: '{pcr}'}}]}}\n{settings}"
        )
    }

    fn reloader() -> Reloader {
        let live = Live::new(config::load(&text(""), |_| None).unwrap());
        Reloader {
            source: Source { path: "/nowhere".into(), text: text(""), environment: |_| None },
            live: Arc::new(live),
            status: StatusWriter::new(&["default".to_owned()]),
            metrics: Arc::new(Metrics::new()),
        }
    }

    #[test]
    fn an_error_changes_nothing_and_is_shown_until_the_file_is_right() {
        let mut reloader = reloader();
        let before = reloader.live.snapshot();
        let changes = reloader.live.subscribe();
        reloader.source.text = text("limits: {requestTimeoutMs: 7}\nunlock: {wrokers: 1}\n");
        reloader.take();
        assert_eq!(*reloader.live.snapshot(), *before);
        assert!(!changes.has_changed().unwrap());
        let shown = reloader.status.snapshot().config;
        assert!(shown.errors[0].contains("did you mean `workers`?"), "{shown:?}");
        reloader.source.text = text("limits: {requestTimeoutMs: 7}\nworkers: 1\n");
        reloader.take();
        assert_eq!(reloader.live.load().limits.request_timeout_ms, 7);
        assert!(changes.has_changed().unwrap());
        let shown = reloader.status.snapshot().config;
        assert_eq!((shown.reloads, shown.errors.len()), (1, 0));
        assert_eq!(shown.needs_restart, ["workers"]);
        let metrics = reloader.metrics.encode();
        for line in [
            "config_reload_total{result=\"refused\"} 1",
            "config_reload_total{result=\"applied\"} 1",
            "config_restart_needed 1",
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_found_by_its_content_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("dataplane.yaml");
        let version = |name: &str, settings: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text(settings)).unwrap();
            let fresh = folder.path().join("fresh");
            std::os::unix::fs::symlink(&file, &fresh).unwrap();
            std::fs::rename(&fresh, &link).unwrap();
        };
        version("1", "");
        let mut reloader = reloader();
        reloader.source.path.clone_from(&link);
        let (live, status) = (Arc::clone(&reloader.live), reloader.status.clone());
        let (mut changed, mut shown) = (live.subscribe(), status.subscribe());
        tokio::spawn(reloader.run());
        version("2", "limits: {requestTimeoutMs: 8}\n");
        changed.changed().await.unwrap();
        assert_eq!(live.load().limits.request_timeout_ms, 8);
        std::fs::remove_file(&link).unwrap();
        shown.wait_for(|status| !status.config.errors.is_empty()).await.unwrap();
        assert_eq!(live.load().limits.request_timeout_ms, 8);
        version("3", "");
        changed.changed().await.unwrap();
        shown.wait_for(|status| status.config.errors.is_empty()).await.unwrap();
    }
}
