//! Key policies: the part of AWS's language that key policies for attested enclaves use, evaluated
//! as AWS does. What is not understood is refused when the policy is put, never ignored.
//!
//! There is no IAM here: a key policy alone decides. A statement for the account's root principal,
//! which on AWS delegates to IAM, therefore allows nobody anything.

mod evaluate;
mod render;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use evaluate::{Decision, Request};
pub use render::{Measured, RenderError, attested_use, pcr3_of_role};

/// The one version of the language.
const VERSION: &str = "2012-10-17";
/// Bytes of a key policy, from the KMS API model.
const POLICY_BYTES_MAX: usize = 32 * 1024;

/// A key policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Policy {
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    statement: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Statement {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    effect: Effect,
    principal: Principal,
    action: OneOrMany,
    resource: OneOrMany,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    condition: BTreeMap<Operator, BTreeMap<String, OneOrMany>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Principal {
    /// Only `"*"`, see [`Policy::parse`].
    Any(String),
    Aws(AwsPrincipals),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AwsPrincipals {
    #[serde(rename = "AWS")]
    aws: OneOrMany,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Operator {
    StringEquals,
    StringNotEquals,
    StringEqualsIgnoreCase,
    StringNotEqualsIgnoreCase,
    Null,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than 32 KiB, not JSON, or with an element, operator or value that is not understood.
    #[error("key policy: {0}")]
    Malformed(String),
    /// Whoever puts it could not put another one.
    #[error(
        "key policy: {0} could not change it again; allow it kms:PutKeyPolicy without conditions"
    )]
    LocksOutAuthor(String),
}

impl Policy {
    /// Reads a policy that `author` wants to put.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn parse(text: &str, author: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::Malformed("longer than 32,768 bytes".to_owned()));
        }
        let policy: Self = serde_json::from_str(text)
            .map_err(|error| PolicyError::Malformed(error.to_string()))?;
        policy.check()?;
        policy.check_author(author)?;
        Ok(policy)
    }

    /// `role` may read and change the policy; nobody may use the key.
    pub fn administration_only(role: &str) -> Self {
        Self { version: VERSION.to_owned(), id: None, statement: vec![administration(role)] }
    }

    /// The policy as JSON, indented by two spaces.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), PolicyError> {
        let malformed = |what: &str| Err(PolicyError::Malformed(what.to_owned()));
        if self.version != VERSION {
            return malformed("Version: only \"2012-10-17\" is known");
        }
        for statement in &self.statement {
            if matches!(&statement.principal, Principal::Any(text) if text != "*") {
                return malformed("Principal: neither \"*\" nor {\"AWS\": ...}");
            }
            if statement.action.iter().any(|action| !action.starts_with("kms:") && action != "*") {
                return malformed("Action: neither \"*\" nor kms:...");
            }
            for (operator, keys) in &statement.condition {
                let truth = |value: &str| matches!(value, "true" | "false");
                if *operator == Operator::Null && !keys.values().all(|v| v.iter().all(truth)) {
                    return malformed("Null: the value is neither \"true\" nor \"false\"");
                }
                if !keys.keys().all(|key| is_known_key(key)) {
                    return malformed("Condition: unknown condition key");
                }
            }
        }
        Ok(())
    }

    fn check_author(&self, author: &str) -> Result<(), PolicyError> {
        let keys = BTreeMap::new();
        let again = Request { principal: author, action: "kms:PutKeyPolicy", key_arn: "*", keys };
        match self.decide(&again) {
            Decision::Allowed => Ok(()),
            _ => Err(PolicyError::LocksOutAuthor(author.to_owned())),
        }
    }
}

impl OneOrMany {
    fn iter(&self) -> impl Iterator<Item = &str> {
        let values = match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        };
        values.iter().map(String::as_str)
    }
}

fn administration(role: &str) -> Statement {
    let actions = ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants", "kms:PutKeyPolicy"];
    Statement {
        sid: Some("BreakGlassAdministration".to_owned()),
        effect: Effect::Allow,
        principal: Principal::Aws(AwsPrincipals { aws: OneOrMany::One(role.to_owned()) }),
        action: OneOrMany::Many(actions.map(str::to_owned).to_vec()),
        resource: OneOrMany::One("*".to_owned()),
        condition: BTreeMap::new(),
    }
}

/// The condition keys that requests can carry here. Names ignore case, as on AWS.
fn is_known_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let Some(rest) = key.strip_prefix("kms:") else { return false };
    let Some(attested) = rest.strip_prefix("recipientattestation:") else {
        return rest.strip_prefix("encryptioncontext:").is_some_and(|name| !name.is_empty());
    };
    let pcr = attested.strip_prefix("pcr").and_then(|index| index.parse().ok());
    attested == "imagesha384" || pcr.is_some_and(|index: u8| index < 32)
}

#[cfg(test)]
mod tests;
