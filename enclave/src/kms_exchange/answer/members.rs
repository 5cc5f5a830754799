//! A JSON object in which no member occurs twice. Which of two members counts would depend on the
//! reader, so an answer with a doubled one is refused whatever the member is.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// Members of an answer. KMS sends at most six.
const MEMBERS_MAX: usize = 32;

/// The members by name.
pub(super) struct Members(BTreeMap<String, Value>);

struct ObjectVisitor;

impl Members {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = object.next_entry::<String, Value>()? {
            if members.len() >= MEMBERS_MAX || members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice, or there are too many"));
            }
        }
        Ok(Members(members))
    }
}
