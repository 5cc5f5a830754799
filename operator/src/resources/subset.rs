//! Whether a live object already is what is wanted.

use serde::Serialize;
use serde_json::Value;

/// Whether everything that `wanted` says is so in `live`. The API server adds defaults and other
/// managers add fields; neither is a difference. Lists are compared item by item.
pub fn is_subset(wanted: &impl Serialize, live: &impl Serialize) -> bool {
    match (serde_json::to_value(wanted), serde_json::to_value(live)) {
        (Ok(wanted), Ok(live)) => contains(&live, &wanted),
        _ => false,
    }
}

fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            value.is_null() || live.get(key).is_some_and(|live| contains(live, value))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_are_no_difference_and_changes_are() {
        let wanted = json!({"a": 1, "list": [{"b": 2}], "absent": null});
        assert!(is_subset(&wanted, &json!({"a": 1, "list": [{"b": 2, "c": 3}], "more": 4})));
        assert!(!is_subset(&wanted, &json!({"a": 1, "list": [{"b": 2}, {"b": 2}]})));
        assert!(!is_subset(&wanted, &json!({"a": 1, "list": [{"b": 3}]})));
        assert!(!is_subset(&wanted, &json!({"list": [{"b": 2}]})));
    }
}
