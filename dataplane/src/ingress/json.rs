//! JSON bodies of the HTTP face: one flat object of texts and booleans. Unknown and doubled fields and
//! wrong types are refused, each with the field's name.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Error;

/// Fields of one object; no operation has more.
const FIELDS_MAX: usize = 16;

/// An object's fields in the order in which they came.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    fields: Unchecked<'a>,
}

/// The same before anything was compared with the contract.
type Unchecked<'a> = Vec<(Cow<'a, str>, Scalar<'a>)>;

#[derive(Debug, PartialEq)]
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    /// What it is instead.
    Other(&'static str),
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Reads `body`; every field must be one of `known`.
    pub(crate) fn read(body: &'a [u8], known: &'static [&'static str]) -> Result<Self, Error> {
        Self::checked(parse(body, ObjectVisitor)?, known)
    }

    fn checked(fields: Unchecked<'a>, known: &'static [&'static str]) -> Result<Self, Error> {
        for (index, (name, _)) in fields.iter().enumerate() {
            if !known.contains(&&**name) {
                let name = shown(name);
                let detail = format!("unknown field {name}; known: {}", known.join(", "));
                return Err(Error::invalid(name, detail));
            }
            if fields.iter().take(index).any(|(earlier, _)| earlier == name) {
                let name = shown(name);
                let detail = format!("the field {name} is given twice");
                return Err(Error::invalid(name, detail));
            }
        }
        Ok(Self { fields })
    }

    fn take(&mut self, name: &str) -> Option<Scalar<'a>> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// A text, or nothing if the field is absent.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<Cow<'a, str>>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// A text that must be there.
    pub(crate) fn required(&mut self, name: &'static str) -> Result<Cow<'a, str>, Error> {
        self.text(name)?.ok_or_else(|| Error::invalid(name, format!("the field {name} is missing")))
    }

    /// A boolean, false if the field is absent.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(false),
            Some(Scalar::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, "true or false", &other)),
        }
    }

    /// Bytes in hex with or without 0x; empty if the field is absent.
    pub(super) fn hex(&mut self, name: &'static str) -> Result<Vec<u8>, Error> {
        self.text(name)?.map_or(Ok(Vec::new()), |text| decode_hex(name, &text))
    }
}

/// Reads an object with one field `name`, a list of objects whose fields must be some of `known`. An
/// object with other fields is wrong alone.
pub(super) fn read_list<'a>(
    body: &'a [u8],
    name: &'static str,
    known: &'static [&'static str],
) -> Result<Vec<Result<Fields<'a>, Error>>, Error> {
    let objects = parse(body, ListVisitor(name))??;
    Ok(objects.into_iter().map(|fields| Fields::checked(fields, known)).collect())
}

fn parse<'a, V: Visitor<'a>>(body: &'a [u8], visitor: V) -> Result<V::Value, Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = deserializer.deserialize_any(visitor);
    parsed.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        Error::invalid("body", format!("the body is not one JSON object of the contract: {error}"))
    })
}

/// Hex with or without 0x, of any even length.
pub(super) fn decode_hex(name: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    const_hex::check_raw(digits)
        .then(|| const_hex::decode(digits).ok())
        .flatten()
        .ok_or_else(|| Error::invalid(name, format!("{name} is not an even number of hex digits")))
}

/// Exactly 64 hex digits with or without 0x.
pub(super) fn decode_digest(text: &str) -> Result<[u8; 32], Error> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() != 64 {
        let detail =
            format!("digest must be 64 hex digits (32 bytes), it has {} characters", digits.len());
        return Err(Error::invalid("digest", detail));
    }
    let mut digest = [0; 32];
    if !const_hex::check_raw(digits) || const_hex::decode_to_slice(digits, &mut digest).is_err() {
        return Err(Error::invalid("digest", "digest must be 64 hex digits, it has others"));
    }
    Ok(digest)
}

/// A caller's field name, short enough to repeat.
fn shown(name: &str) -> String {
    const CHARACTERS_MAX: usize = 64;
    name.chars().take(CHARACTERS_MAX).filter(|c| !c.is_control()).collect()
}

fn wrong_type(name: &'static str, wanted: &str, found: &Scalar<'_>) -> Error {
    let found = match found {
        Scalar::Text(_) => "a string",
        Scalar::Bool(_) => "a boolean",
        Scalar::Other(what) => what,
    };
    Error::invalid(name, format!("the field {name} must be {wanted}, it is {found}"))
}

/// Reads an object and keeps doubled fields, which a map would lose.
struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(Cow<'de, str>, Scalar<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(4);
        while let Some(Text(name)) = map.next_key()? {
            if fields.len() == FIELDS_MAX {
                return Err(A::Error::custom(format!("more than {FIELDS_MAX} fields")));
            }
            fields.push((name, map.next_value()?));
        }
        Ok(fields)
    }
}

/// Reads an object with one field, a list of objects.
struct ListVisitor(&'static str);

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Result<Vec<Unchecked<'de>>, Error>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut list, mut wrong) = (None, None);
        while let Some(Text(name)) = map.next_key()? {
            if name == self.0 && list.is_none() {
                list = Some(map.next_value::<Vec<Object<'de>>>()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            let detail = if name == self.0 {
                format!("the field {name} is given twice")
            } else {
                format!("unknown field {}; known: {}", shown(&name), self.0)
            };
            wrong = wrong.or(Some(Error::invalid(shown(&name), detail)));
        }
        let missing = || Error::invalid(self.0, format!("the field {} is missing", self.0));
        Ok(match wrong {
            Some(wrong) => Err(wrong),
            None => list.ok_or_else(missing).map(|list| list.into_iter().map(|it| it.0).collect()),
        })
    }
}

/// One object of a list.
struct Object<'a>(Unchecked<'a>);

impl<'de> serde::Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor).map(Self)
    }
}

/// A text that borrows from the body where it can.
struct Text<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a field name must be a string")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(flag))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }
}
