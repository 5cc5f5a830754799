//! Settings of who may do what.

use serde::{Deserialize, Serialize};

use super::Config;
use crate::access::Verb;

/// Rules of one process; each new caller is compared with all of them.
const RULES_MAX: usize = 1_024;
/// Names in one list of a rule.
const NAMES_MAX: usize = 256;
/// Requests a second that a rate can be set to; above it the share of one is less than a microsecond.
const RATE_MAX: u32 = 1_000_000;
/// Everything in this place.
const ANY: &str = "*";
/// How the names of callers begin.
const KINDS: [&str; 4] = ["serviceAccount:", "uri:", "dns:", "cn:"];

/// Rules in order: for each caller, keyspace and verb the first that names all three decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct AccessRules(pub Vec<AccessRule>);

/// Lets callers do something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// `serviceAccount:NAMESPACE/NAME`, `serviceAccount:NAMESPACE/*`, `uri:`, `dns:` or `cn:` with the
    /// name in a certificate, or `*` for every caller that proved who it is.
    pub subjects: Vec<String>,
    /// Names of keyspaces, or `*` for all that are served.
    pub keyspaces: Vec<String>,
    /// What they may do there.
    pub verbs: Vec<AccessVerb>,
    /// Requests a second of each caller in each keyspace for each verb, 0..=1000000; 0: no limit.
    #[serde(default)]
    pub rate_per_second_max: u32,
    /// Requests that may come together, 0..=1000000; 0: those of a second.
    #[serde(default)]
    pub burst: u32,
}

/// What a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessVerb {
    /// Make keys.
    Create,
    /// Sign, alone, in batches or on streams.
    Sign,
    /// List the keys of a keyspace.
    List,
    /// Look at a key, have it proved.
    Read,
}

// === impl AccessRule ===

impl AccessRule {
    /// Whether the rule is about this.
    pub(crate) fn covers(&self, subject: &str, keyspace: &str, verb: Verb) -> bool {
        let verb = match verb {
            Verb::Create => AccessVerb::Create,
            Verb::Sign => AccessVerb::Sign,
            Verb::List => AccessVerb::List,
            Verb::Read => AccessVerb::Read,
        };
        self.verbs.contains(&verb)
            && self.keyspaces.iter().any(|name| name == ANY || name == keyspace)
            && self.subjects.iter().any(|pattern| matches(pattern, subject))
    }

    /// Requests a second and a burst, if there is a limit.
    pub(crate) fn rate(&self) -> Option<(u32, u32)> {
        let burst = if self.burst == 0 { self.rate_per_second_max } else { self.burst };
        (self.rate_per_second_max > 0).then_some((self.rate_per_second_max, burst))
    }

    fn validate(&self, path: &str, keyspaces: &[String], errors: &mut Vec<String>) {
        let lists = [
            ("subjects", self.subjects.len()),
            ("keyspaces", self.keyspaces.len()),
            ("verbs", self.verbs.len()),
        ];
        for (name, length) in lists {
            if !(1..=NAMES_MAX).contains(&length) {
                errors.push(format!("{path}.{name}: expected 1 to {NAMES_MAX} entries"));
            }
        }
        for subject in &self.subjects {
            if !is_pattern(subject) {
                errors.push(format!(
                    "{path}.subjects: `{subject}`: expected serviceAccount:NAMESPACE/NAME, \
                     serviceAccount:NAMESPACE/*, uri:NAME, dns:NAME, cn:NAME, or *"
                ));
            }
        }
        for keyspace in self.keyspaces.iter().filter(|name| *name != ANY) {
            if !keyspaces.contains(keyspace) {
                errors.push(format!("{path}.keyspaces: `{keyspace}` is not one of keyspaces"));
            }
        }
        let limits = [("ratePerSecondMax", self.rate_per_second_max), ("burst", self.burst)];
        for (name, value) in limits {
            if value > RATE_MAX {
                errors.push(format!("{path}.{name}: {value} is not in 0..={RATE_MAX}"));
            }
        }
    }
}

// === impl AccessRules ===

impl AccessRules {
    pub(super) fn validate(&self, config: &Config, errors: &mut Vec<String>) {
        if self.0.len() > RULES_MAX {
            errors.push(format!("access: more than {RULES_MAX} rules"));
        }
        if !self.0.is_empty() && !config.names_callers() {
            errors.push(
                "access: nobody is authenticated, so no rule would count; set \
                 auth.tokens.enabled or listeners.tls.clientCertificates, or leave access out"
                    .to_owned(),
            );
        }
        for (index, rule) in self.0.iter().enumerate() {
            rule.validate(&format!("access[{index}]"), &config.keyspaces.0, errors);
        }
    }
}

/// A star stands for a whole name only: what a prefix of names may one day match is nobody's decision.
fn matches(pattern: &str, subject: &str) -> bool {
    if pattern == ANY {
        return true;
    }
    match pattern.strip_prefix(KINDS[0]).and_then(|rest| rest.strip_suffix("/*")) {
        Some(namespace) => {
            let account = subject.strip_prefix(KINDS[0]).and_then(|rest| rest.split_once('/'));
            account.is_some_and(|(of, _)| of == namespace)
        }
        None => pattern == subject,
    }
}

fn is_pattern(text: &str) -> bool {
    if text == ANY {
        return true;
    }
    let Some(kind) = KINDS.iter().find(|kind| text.starts_with(**kind)) else { return false };
    let name = text.get(kind.len()..).unwrap_or_default();
    if *kind != KINDS[0] {
        return !name.is_empty();
    }
    name.split_once('/').is_some_and(|(namespace, account)| {
        let plain = |name: &str| !name.is_empty() && !name.contains(['*', '/']);
        plain(namespace) && (account == ANY || plain(account))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_a_whole_name_or_everybody() {
        for (pattern, subject, fits) in [
            ("*", "cn:a", true),
            ("serviceAccount:a/b", "serviceAccount:a/b", true),
            ("serviceAccount:a/b", "serviceAccount:a/bc", false),
            ("serviceAccount:a/*", "serviceAccount:a/b", true),
            ("serviceAccount:a/*", "serviceAccount:ab/b", false),
            ("serviceAccount:a/*", "uri:a/b", false),
            ("dns:a.example", "cn:a.example", false),
            ("uri:spiffe://a/*", "uri:spiffe://a/b", false),
        ] {
            assert_eq!(matches(pattern, subject), fits, "{pattern} {subject}");
        }
        for good in ["*", "serviceAccount:a/b", "serviceAccount:a/*", "uri:spiffe://a", "cn:A B"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "serviceAccount:a",
            "serviceAccount:*/b",
            "serviceAccount:a/b*",
            "serviceAccount:*/*",
            "dns:",
            "unix:0",
            "loopback",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }
}
