//! Bounded pieces of schema that several types share.
//!
//! Kubernetes estimates what a CEL rule may cost from the bounds of everything that it can reach;
//! one unbounded string makes it refuse the whole CRD.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A map of labels: at most 16 entries of at most 63 characters.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

/// A list of at most 8 object names.
pub(crate) fn object_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "items": { "type": "string", "minLength": 1, "maxLength": 253 },
    })
}

/// A list of at most 4 ARNs of KMS keys.
pub(crate) fn key_arns(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 4,
        "items": {
            "type": "string",
            "maxLength": 256,
            "pattern": "^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$",
        },
    })
}

/// A list of at most 512 vCPU numbers.
pub(crate) fn cpu_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 512,
        "items": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 4095 },
    })
}

/// A time in RFC 3339.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
}

/// Conditions: a map by type, so that each writer owns its own entries.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<crate::Condition>();
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
