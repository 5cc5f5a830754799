//! From the settings in force and those of a new file to those that hold from now on. What may change
//! while the process runs is taken over; the rest stays and is named. Pure.

use serde_yaml_ng::{Mapping, Value};

use super::load::ConfigErrors;
use super::reference::{Reload, reload};
use super::{Config, load};

/// What a reload comes to.
#[derive(Debug)]
pub(crate) struct Merged {
    /// What holds from now on.
    pub(crate) config: Config,
    /// Paths that were taken over.
    pub(crate) applied: Vec<String>,
    /// Paths that differ and hold after a restart.
    pub(crate) needs_restart: Vec<String>,
}

/// Takes from `asked` what may change while running.
///
/// # Errors
/// What results breaks a rule, because a setting that it depends on needs a restart.
pub(crate) fn merge(in_force: &Config, asked: &Config) -> Result<Merged, ConfigErrors> {
    let mut root = load::mapping(in_force);
    let (mut applied, mut needs_restart) = (Vec::new(), Vec::new());
    take_over("", &mut root, &load::mapping(asked), &mut |path, hot| {
        if hot { &mut applied } else { &mut needs_restart }.push(path.to_owned());
    });
    let config: Config = serde_yaml_ng::from_value(Value::Mapping(root))
        .map_err(|error| ConfigErrors(vec![format!("settings do not fit together: {error}")]))?;
    let mut errors = Vec::new();
    config.validate(&mut errors);
    if errors.is_empty() {
        return Ok(Merged { config, applied, needs_restart });
    }
    errors.push(format!("these need a restart first: {}", needs_restart.join(", ")));
    Err(ConfigErrors(errors))
}

fn take_over(
    path: &str,
    ours: &mut Mapping,
    theirs: &Mapping,
    differs: &mut dyn FnMut(&str, bool),
) {
    for (key, asked) in theirs {
        let name = key.as_str().unwrap_or_default();
        let here = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match (ours.get_mut(key), asked) {
            (Some(Value::Mapping(ours)), Value::Mapping(theirs)) if reload(&here).is_none() => {
                take_over(&here, ours, theirs, differs);
            }
            (Some(ours), _) if ours == asked => {}
            (ours, _) => {
                let hot = reload(&here) == Some(Reload::Running);
                differs(&here, hot);
                if let (Some(ours), true) = (ours, hot) {
                    *ours = asked.clone();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let pcr = "11".repeat(48);
        let least = format!(
            "kms: {{region: r}}\nenclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', \
             pcr2: '{pcr}'}}]}}\n{text}"
        );
        super::super::load(&least, |_| None).unwrap()
    }

    #[test]
    fn what_may_change_is_taken_over_and_the_rest_is_named_and_stays() {
        let old = config("");
        let new = config("limits: {requestTimeoutMs: 7, bodyBytesMax: 2048}\nworkers: 3\n");
        let merged = merge(&old, &new).unwrap();
        assert_eq!(merged.applied, ["limits.requestTimeoutMs"]);
        assert_eq!(merged.needs_restart, ["workers", "limits.bodyBytesMax"]);
        let mut expected = old.clone();
        expected.limits.request_timeout_ms = 7;
        assert_eq!(merged.config, expected);
        let back = merge(&merged.config, &old).unwrap();
        assert_eq!((back.config, back.needs_restart.len()), (old, 0));
    }

    #[test]
    fn optional_sections_and_settings_come_and_go() {
        let member = "member: {namespace: a, pool: b, allocation: c, node: d}\n";
        let (old, new) = (config(""), config(&format!("cache: {{keyUses: 9}}\n{member}")));
        let merged = merge(&old, &new).unwrap();
        assert_eq!(
            (merged.applied, merged.needs_restart),
            (vec!["cache.keyUses".to_owned()], vec!["member".to_owned()])
        );
        assert_eq!((merged.config.cache.key_uses, &merged.config.member), (Some(9), &None));
        assert_eq!(merge(&merged.config, &old).unwrap().config, old);
    }
}
