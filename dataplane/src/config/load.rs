//! From text and environment to settings, with all errors collected.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_yaml_ng::{Mapping, Value};

use super::Config;

/// Everything that is wrong with a configuration, one line each: path, reason, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} error(s):", self.0.len())?;
        self.0.iter().try_for_each(|error| writeln!(f, "  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Prefix of environment variables that override a setting.
const ENVIRONMENT_PREFIX: &str = "SIGIL";
/// Jaro-Winkler similarity (0 to 1) from which a known key is taken for what was meant: one or two wrong
/// letters, or a missing unit at the end.
const LIKENESS_MIN: f64 = 0.85;

/// Reads settings from YAML text; `environment` looks a variable up.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    let mut errors = Vec::new();
    let template = mapping(&Config::default());
    let mut root = match parse(text) {
        Ok(root) => root,
        Err(error) => return Err(ConfigErrors(vec![error])),
    };
    refuse_unknown("", &mut root, &template, &mut errors);
    override_from(&environment, ENVIRONMENT_PREFIX, &mut root, &template, &mut errors);
    drop_nulls(&mut root);
    let known_errors = errors.len();
    let config = Config {
        listeners: section(&mut root, "listeners", &mut errors),
        workers: section(&mut root, "workers", &mut errors),
        enclave: section(&mut root, "enclave", &mut errors),
        pool: section(&mut root, "pool", &mut errors),
        kms: section(&mut root, "kms", &mut errors),
        keyspaces: section(&mut root, "keyspaces", &mut errors),
        store: section(&mut root, "store", &mut errors),
        cache: section(&mut root, "cache", &mut errors),
        unlock: section(&mut root, "unlock", &mut errors),
        reseal: section(&mut root, "reseal", &mut errors),
        limits: section(&mut root, "limits", &mut errors),
        admission: section(&mut root, "admission", &mut errors),
        outbound: section(&mut root, "outbound", &mut errors),
        routing: section(&mut root, "routing", &mut errors),
        auth: section(&mut root, "auth", &mut errors),
        access: section(&mut root, "access", &mut errors),
        audit: section(&mut root, "audit", &mut errors),
        member: section(&mut root, "member", &mut errors),
    };
    let unreadable = errors.len() > known_errors;
    // A section that could not be read has its defaults here; rules about it would mislead.
    if !unreadable {
        config.validate(&mut errors);
    }
    if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
}

fn parse(text: &str) -> Result<Mapping, String> {
    match serde_yaml_ng::from_str(text) {
        Ok(Value::Mapping(root)) => Ok(root),
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(_) => Err("the file must be a map of settings".to_owned()),
        Err(error) => Err(format!("not YAML: {error}")),
    }
}

/// Settings as they stand in a file.
pub(super) fn mapping(config: &Config) -> Mapping {
    match serde_yaml_ng::to_value(config) {
        Ok(Value::Mapping(mapping)) => mapping,
        _ => Mapping::new(),
    }
}

/// Reports unknown keys and takes them out, so that the rest can be judged too.
fn refuse_unknown(path: &str, given: &mut Mapping, template: &Mapping, errors: &mut Vec<String>) {
    given.retain(|key, value| {
        let name = key.as_str().map_or_else(|| format!("{key:?}"), ToOwned::to_owned);
        let here = if path.is_empty() { name } else { format!("{path}.{name}") };
        match (template.get(key), value) {
            (None, _) => {
                errors.push(format!("{here}: unknown key; {}", known_keys(key, template)));
                return false;
            }
            (Some(Value::Mapping(template)), Value::Mapping(given)) => {
                refuse_unknown(&here, given, template, errors);
            }
            _ => {}
        }
        true
    });
}

/// What may have been meant, or everything that could be.
fn known_keys(given: &Value, template: &Mapping) -> String {
    let given = given.as_str().unwrap_or_default();
    let known: Vec<_> = template.keys().filter_map(Value::as_str).collect();
    let near = |name: &str| strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase());
    match known.iter().map(|name| (near(name), name)).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, nearest)) if likeness >= LIKENESS_MIN => {
            format!("did you mean `{nearest}`?")
        }
        _ => format!("known here: {}", known.join(", ")),
    }
}

fn override_from(
    environment: &impl Fn(&str) -> Option<String>,
    prefix: &str,
    target: &mut Mapping,
    template: &Mapping,
    errors: &mut Vec<String>,
) {
    for (key, default) in template {
        let Some(name) = key.as_str() else { continue };
        let variable = format!("{prefix}_{}", shout(name));
        if let Value::Mapping(inner) = default {
            let slot = target.entry(key.clone()).or_insert_with(|| Value::Mapping(Mapping::new()));
            if slot.is_null() {
                *slot = Value::Mapping(Mapping::new());
            }
            if let Value::Mapping(slot) = slot {
                override_from(environment, &variable, slot, inner, errors);
            }
        } else if let Some(text) = environment(&variable) {
            match value_of(&text, default) {
                Ok(value) => {
                    target.insert(key.clone(), value);
                }
                Err(error) => errors.push(format!("{variable}: not YAML: {error}")),
            }
        }
    }
}

/// Text stays text where the setting is one: a region or a path is never read as YAML.
fn value_of(text: &str, default: &Value) -> Result<Value, serde_yaml_ng::Error> {
    if default.is_string() { Ok(text.into()) } else { serde_yaml_ng::from_str(text) }
}

/// The variable that overrides the setting with this path.
pub(super) fn variable(path: &str) -> String {
    path.split('.').fold(ENVIRONMENT_PREFIX.to_owned(), |all, name| all + "_" + &shout(name))
}

/// `queueTimeMaxMs` becomes `QUEUE_TIME_MAX_MS`.
fn shout(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(character.to_ascii_uppercase());
    }
    out
}

/// `key: null` means the default, as everywhere in Kubernetes.
fn drop_nulls(map: &mut Mapping) {
    map.retain(|_, value| !value.is_null());
    for (_, value) in map.iter_mut() {
        if let Value::Mapping(inner) = value {
            drop_nulls(inner);
        }
    }
}

fn section<T: DeserializeOwned + Default>(
    root: &mut Mapping,
    name: &str,
    errors: &mut Vec<String>,
) -> T {
    let Some(value) = root.remove(name) else { return T::default() };
    match serde_yaml_ng::from_value(value) {
        Ok(section) => section,
        Err(error) => {
            errors.push(format!("{name}: {error}"));
            T::default()
        }
    }
}
