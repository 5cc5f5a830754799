//! Settings of how callers prove who they are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ClientCertificates, Config, Member};
use crate::auth::Expected;

/// The issuer of a cluster that was set up without naming another.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longest that clocks may differ, s.
const LEEWAY_S_MAX: u64 = 300;

/// How callers prove who they are. Client certificates are settings of the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Auth {
    /// Tokens of service accounts.
    pub tokens: Tokens,
}

/// Tokens of the cluster's service accounts, verified here against its keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tokens {
    /// Whether they are taken; callers without one need a client certificate then.
    pub enabled: bool,
    /// `iss` of the cluster's tokens.
    pub issuer: String,
    /// `aud`; absent: `sigil:NAMESPACE/POOL` of `member`.
    pub audience: Option<String>,
    /// A JWKS; absent: the API server's, which needs `member`.
    pub keys_file: Option<PathBuf>,
    /// Between two looks at the keys, 1..=3600.
    pub refresh_s: u64,
    /// By how much clocks may differ, 0..=300.
    pub leeway_s: u64,
}

// === impl Tokens ===

impl Tokens {
    /// What tokens must say; `None` if they are not taken.
    pub(crate) fn expected(&self, member: Option<&Member>) -> Option<Expected> {
        let audience = self
            .audience
            .clone()
            .or_else(|| member.map(|member| format!("sigil:{}/{}", member.namespace, member.pool)));
        let audience = audience.filter(|_| self.enabled)?;
        Some(Expected { issuer: self.issuer.clone(), audience, leeway_s: self.leeway_s })
    }

    pub(super) fn validate(&self, member: Option<&Member>, errors: &mut Vec<String>) {
        let mut bound = |path: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                errors.push(format!("auth.tokens.{path}: {value} is not in {low}..={high}"));
            }
        };
        bound("refreshS", self.refresh_s, 1, 3_600);
        bound("leewayS", self.leeway_s, 0, LEEWAY_S_MAX);
        if self.keys_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            errors.push("auth.tokens.keysFile: must be an absolute path".to_owned());
        }
        if !self.enabled {
            return;
        }
        if self.issuer.is_empty() {
            errors.push("auth.tokens.issuer: required; it is `iss` of the cluster's tokens".into());
        }
        if member.is_none() && self.audience.as_ref().is_none_or(String::is_empty) {
            errors.push(
                "auth.tokens.audience: required without `member`, whose namespace and pool name it"
                    .to_owned(),
            );
        }
        if member.is_none() && self.keys_file.is_none() {
            errors.push(
                "auth.tokens.keysFile: required without `member`: there is no API server to ask"
                    .to_owned(),
            );
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            enabled: false,
            issuer: ISSUER.to_owned(),
            audience: None,
            keys_file: None,
            refresh_s: 300,
            leeway_s: 30,
        }
    }
}

// === impl Config ===

impl Config {
    /// Whether callers can prove who they are, so that rules have somebody to name.
    pub(crate) fn names_callers(&self) -> bool {
        let certificates = self.listeners.tls.client_certificates;
        self.auth.tokens.enabled || certificates != ClientCertificates::None
    }

    /// Whether callers must prove who they are. Where certificates are optional, they must as soon as
    /// there are rules.
    pub(crate) fn authenticates(&self) -> bool {
        self.auth.tokens.enabled
            || match self.listeners.tls.client_certificates {
                ClientCertificates::None => false,
                ClientCertificates::Optional => !self.access.0.is_empty(),
                ClientCertificates::Required => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_need_an_audience_and_keys() {
        let said = |tokens: &Tokens, member: Option<&Member>| {
            let mut errors = Vec::new();
            tokens.validate(member, &mut errors);
            errors
        };
        assert_eq!(said(&Tokens::default(), None), Vec::<String>::new());
        let on = Tokens { enabled: true, ..Tokens::default() };
        let errors = said(&on, None);
        assert!(errors.len() == 2 && errors[0].contains("audience"), "{errors:?}");
        assert!(errors[1].contains("keysFile"), "{errors:?}");
        let member = Member {
            namespace: "payments".to_owned(),
            pool: "signer".to_owned(),
            allocation: "signer-0".to_owned(),
            node: "n".to_owned(),
        };
        assert_eq!(said(&on, Some(&member)), Vec::<String>::new());
        assert_eq!(on.expected(Some(&member)).unwrap().audience, "sigil:payments/signer");
        assert_eq!(Tokens::default().expected(Some(&member)), None);
        let errors = said(&Tokens { leeway_s: 301, refresh_s: 0, ..Tokens::default() }, None);
        assert_eq!(errors.len(), 2, "{errors:?}");
    }
}
