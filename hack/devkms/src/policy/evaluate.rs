//! Decides about one request.

use std::collections::BTreeMap;

use super::{Effect, OneOrMany, Operator, Policy, Principal, Statement};

/// What a policy is asked.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// ARN of the caller's role.
    pub principal: &'a str,
    /// `kms:` and the action.
    pub action: &'a str,
    /// The key.
    pub key_arn: &'a str,
    /// Condition keys and their values.
    pub keys: BTreeMap<String, String>,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it and none denies it.
    Allowed,
    /// No statement allows it.
    NotAllowed,
    /// A statement denies it, whatever others allow.
    ExplicitlyDenied,
}

impl Policy {
    /// Decides about a request.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let applies = |effect| {
            self.statement.iter().any(|one| one.effect == effect && one.applies_to(request))
        };
        match (applies(Effect::Deny), applies(Effect::Allow)) {
            (true, _) => Decision::ExplicitlyDenied,
            (false, true) => Decision::Allowed,
            (false, false) => Decision::NotAllowed,
        }
    }
}

impl Statement {
    fn applies_to(&self, request: &Request<'_>) -> bool {
        let principal = match &self.principal {
            Principal::Any(_) => true,
            Principal::Aws(listed) => {
                listed.aws.iter().any(|arn| arn == "*" || arn == request.principal)
            }
        };
        let action = self.action.iter().any(|pattern| {
            matches(&pattern.to_ascii_lowercase(), &request.action.to_ascii_lowercase())
        });
        let resource = self.resource.iter().any(|arn| arn == "*" || arn == request.key_arn);
        let conditions = self.condition.iter().all(|(operator, keys)| {
            keys.iter().all(|(key, values)| holds(*operator, request.value(key), values))
        });
        principal && action && resource && conditions
    }
}

impl Request<'_> {
    /// Names of condition keys ignore case.
    fn value(&self, key: &str) -> Option<&str> {
        let found = self.keys.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }
}

/// With several values, a positive operator asks for one that matches and a negated one for none.
/// A missing key fails a positive operator and satisfies a negated one.
fn holds(operator: Operator, value: Option<&str>, listed: &OneOrMany) -> bool {
    let equals = || value.is_some_and(|value| listed.iter().any(|one| one == value));
    let equals_ignoring_case =
        || value.is_some_and(|value| listed.iter().any(|one| one.eq_ignore_ascii_case(value)));
    match operator {
        Operator::StringEquals => equals(),
        Operator::StringNotEquals => !equals(),
        Operator::StringEqualsIgnoreCase => equals_ignoring_case(),
        Operator::StringNotEqualsIgnoreCase => !equals_ignoring_case(),
        Operator::Null => listed.iter().any(|missing| (missing == "true") == value.is_none()),
    }
}

/// `*` stands for any characters, `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| matches(rest, &text[at..]))
        }
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            matches(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }
        _ => false,
    }
}
