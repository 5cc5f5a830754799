//! Events: every transition, where `kubectl describe` shows it.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use sigil_crds::SignerPool;

use crate::names::MANAGER;

/// Longest note of an event, in bytes (events.k8s.io/v1).
const NOTE_BYTES_MAX: usize = 1000;

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For the record.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Where events go. Equal ones within minutes are counted, not repeated.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

// === impl Events ===

impl Events {
    /// Events of this process.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter =
            Reporter { controller: MANAGER.to_owned(), instance: Some(identity.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes one. An event that cannot be published is logged: it never stops a pass.
    pub async fn publish(&self, pool: &SignerPool, severity: Severity, reason: &str, note: &str) {
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &pool.object_ref(&())).await {
            tracing::warn!(%error, reason, note, "event not published");
        }
    }
}

fn shortened(note: &str) -> String {
    let end = (0..=NOTE_BYTES_MAX.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    note.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_at_a_character() {
        assert_eq!(shortened("short"), "short");
        assert!(shortened(&"é".repeat(NOTE_BYTES_MAX)).len() <= NOTE_BYTES_MAX);
    }
}
