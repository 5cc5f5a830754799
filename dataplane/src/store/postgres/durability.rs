//! Whether what the server acknowledges survives. Pure: settings in, verdict out. Meanings are those of
//! PostgreSQL's documentation, "Write Ahead Log" and "Replication".

use serde::Serialize;

/// The server's settings on which durability rests, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Durability {
    /// What a commit waits for.
    pub synchronous_commit: String,
    /// The standbys that a commit waits for; empty: none.
    pub synchronous_standby_names: String,
    /// The log is forced to disk.
    pub fsync: String,
    /// A page that a crash tears apart can be mended.
    pub full_page_writes: String,
    /// `no` where writes are taken.
    pub read_only: String,
}

// === impl Durability ===

impl Durability {
    /// A write that is acknowledged survives the loss of the server.
    pub fn is_replicated(&self) -> bool {
        !self.synchronous_standby_names.trim().is_empty()
            // With the others the standby may not have it on disk.
            && matches!(self.synchronous_commit.as_str(), "on" | "remote_apply")
    }

    /// Why writes may not be acknowledged, with what to set.
    pub fn objection(&self, accept_single_node: bool) -> Option<String> {
        for (name, value) in [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)]
        {
            if value != "on" {
                return Some(format!(
                    "{name} is {value}: a crash of the server loses or damages what was \
                     acknowledged; set {name} = on"
                ));
            }
        }
        if self.synchronous_commit == "off" {
            return Some(
                "synchronous_commit is off: a crash of the server loses what was acknowledged; set \
                 it to on for this role (ALTER ROLE ... SET synchronous_commit = on)"
                    .to_owned(),
            );
        }
        if self.is_replicated() || accept_single_node {
            return None;
        }
        let (wanted, found) = if self.synchronous_standby_names.trim().is_empty() {
            ("name a standby in synchronous_standby_names", "synchronous_standby_names is empty")
        } else {
            ("set it to on", "synchronous_commit does not wait until a standby has it on disk")
        };
        Some(format!(
            "{found} (synchronous_commit = {}): the loss of one machine loses keys; {wanted}, or \
             accept that with store.postgres.acceptSingleNodeDurability: true",
            self.synchronous_commit
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durability(commit: &str, names: &str, fsync: &str, pages: &str) -> Durability {
        Durability {
            synchronous_commit: commit.to_owned(),
            synchronous_standby_names: names.to_owned(),
            fsync: fsync.to_owned(),
            full_page_writes: pages.to_owned(),
            read_only: "off".to_owned(),
        }
    }

    #[test]
    fn what_a_crash_could_lose_is_objected_to_with_what_to_set() {
        let table = [
            // Never accepted.
            (durability("on", "a", "off", "on"), Some("fsync = on"), Some("fsync = on")),
            (
                durability("on", "a", "on", "off"),
                Some("full_page_writes"),
                Some("full_page_writes"),
            ),
            (durability("off", "a", "on", "on"), Some("ALTER ROLE"), Some("ALTER ROLE")),
            // Accepted when asked for.
            (durability("on", "", "on", "on"), Some("synchronous_standby_names"), None),
            (durability("on", "  ", "on", "on"), Some("acceptSingleNodeDurability"), None),
            (durability("local", "a", "on", "on"), Some("set it to on"), None),
            (durability("remote_write", "a", "on", "on"), Some("set it to on"), None),
            // Durable.
            (durability("on", "FIRST 1 (a, b)", "on", "on"), None, None),
            (durability("remote_apply", "*", "on", "on"), None, None),
        ];
        for (settings, strict, accepting) in table {
            for (accept, expected) in [(false, strict), (true, accepting)] {
                let objection = settings.objection(accept);
                match expected {
                    None => assert_eq!(objection, None, "{settings:?}"),
                    Some(part) => assert!(objection.unwrap().contains(part), "{settings:?}"),
                }
            }
        }
    }
}
