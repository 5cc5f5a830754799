//! The two published forms of the contract say the same: `signer.proto`, `openapi.yaml`, and the error
//! table in `docs/api/README.md`, which nobody would compare by hand at every change.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::Value;

use crate::error::TABLE;
use crate::v1;

/// Operations that only one face has, and why.
const ONLY_HTTP: [&str; 2] = [
    // Birth statements come with Create; proofs over gRPC are not asked for yet.
    "getAttestation",
    // grpc.reflection.v1 does it.
    "getOpenApi",
];
const ONLY_GRPC: [&str; 1] = [
    // HTTP has no form for it that every client knows.
    "signStream",
];
/// Fields that only HTTP has: reserved, and not sent.
const ONLY_HTTP_FIELDS: [(&str, &str); 1] = [("createResponse", "address")];

/// Fields with the kind of their values; `[]` behind it for lists.
type Fields = BTreeMap<String, String>;

fn openapi() -> Value {
    serde_yaml_ng::from_str(include_str!("../../../../docs/api/openapi.yaml")).unwrap()
}

fn proto() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    set.file.into_iter().find(|file| file.package() == "signer.v1").unwrap()
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap().to_owned();
    out[..1].make_ascii_lowercase();
    for part in parts {
        out.push_str(&part[..1].to_uppercase());
        out.push_str(&part[1..]);
    }
    out
}

fn last_part(path: &str) -> String {
    camel(path.rsplit(['.', '/']).next().unwrap())
}

/// Names that the faces give to the same thing.
fn same(name: String) -> String {
    match name.as_str() {
        "birth" => "statement".to_owned(),
        _ => name,
    }
}

fn grpc_kind(field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        // Bytes are hex or base64 over HTTP.
        Type::String | Type::Bytes => "string".to_owned(),
        Type::Bool => "boolean".to_owned(),
        Type::Uint32 | Type::Uint64 => "integer".to_owned(),
        Type::Message => same(last_part(field.type_name())),
        other => panic!("{}: {other:?} has no form over HTTP", field.name()),
    };
    if field.label() == Label::Repeated { kind + "[]" } else { kind }
}

fn grpc_fields(message: &DescriptorProto) -> Fields {
    message.field.iter().map(|field| (camel(field.name()), grpc_kind(field))).collect()
}

/// A schema, through references.
fn resolved<'a>(openapi: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => resolved(openapi, openapi.pointer(&path[1..]).unwrap()),
        None => schema,
    }
}

fn http_kind(openapi: &Value, schema: &Value) -> String {
    let to = resolved(openapi, schema);
    match to["type"].as_str().unwrap() {
        "object" => last_part(schema["$ref"].as_str().unwrap()),
        "array" => http_kind(openapi, &to["items"]) + "[]",
        scalar => scalar.to_owned(),
    }
}

fn http_fields(openapi: &Value, schema: &Value) -> Fields {
    let properties = resolved(openapi, schema)["properties"].as_object().unwrap();
    properties.iter().map(|(name, of)| (name.clone(), http_kind(openapi, of))).collect()
}

/// What an operation takes: its body, or the parameters of its path and query.
fn http_request(openapi: &Value, operation: &Value) -> Fields {
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if body.is_object() {
        return http_fields(openapi, body);
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .map(|parameter| resolved(openapi, parameter))
        .map(|parameter| {
            let name = parameter["name"].as_str().unwrap();
            let name = if name == "id" { "keyId" } else { name };
            (name.to_owned(), http_kind(openapi, &parameter["schema"]))
        })
        .collect()
}

fn http_operations(openapi: &Value) -> BTreeMap<String, &Value> {
    let mut operations = BTreeMap::new();
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            if verb == "parameters" {
                continue;
            }
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id.to_owned(), operation).is_none(), "{path}: {id} twice");
        }
    }
    operations
}

#[test]
fn both_faces_have_the_same_operations() {
    let (openapi, proto) = (openapi(), proto());
    let http: BTreeSet<_> = http_operations(&openapi).into_keys().collect();
    let grpc: BTreeSet<_> = proto.service[0].method.iter().map(|it| last_part(it.name())).collect();
    let expected = |only: &[&str]| only.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(&http - &grpc, expected(&ONLY_HTTP));
    assert_eq!(&grpc - &http, expected(&ONLY_GRPC));
}

#[test]
fn every_operation_takes_and_gives_the_same_fields_on_both_faces() {
    let (openapi, proto) = (openapi(), proto());
    let message = |name: &str| {
        let name = name.rsplit('.').next().unwrap();
        proto.message_type.iter().find(|it| it.name() == name).unwrap()
    };
    let operations = http_operations(&openapi);
    let mut compared = 0;
    for method in &proto.service[0].method {
        let Some(operation) = operations.get(&last_part(method.name())) else { continue };
        let name = method.name();
        let takes = grpc_fields(message(method.input_type()));
        assert_eq!(http_request(&openapi, operation), takes, "{name} takes");
        let mut gives = message(method.output_type());
        // GetKey's answer is the key itself over HTTP.
        if let [only] = gives.field.as_slice()
            && only.label() != Label::Repeated
        {
            gives = message(only.type_name());
        }
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        let mut http = http_fields(&openapi, schema);
        for (message, field) in ONLY_HTTP_FIELDS {
            if message == last_part(gives.name()) {
                assert!(http.remove(field).is_some(), "{field} is no longer there");
            }
        }
        assert_eq!(http, grpc_fields(gives), "{name} gives");
        compared += 1;
    }
    assert_eq!(compared, proto.service[0].method.len() - ONLY_GRPC.len());
}

#[test]
fn parts_of_messages_are_the_same_on_both_faces() {
    let (openapi, proto) = (openapi(), proto());
    for (name, schema) in [
        ("SignResult", "SignResult"),
        ("Error", "Error"),
        ("Key", "Key"),
        ("Birth", "Statement"),
        ("SignRequest", "SignRequest"),
    ] {
        let message = proto.message_type.iter().find(|it| it.name() == name).unwrap();
        let http = http_fields(&openapi, &openapi["components"]["schemas"][schema]);
        assert_eq!(http, grpc_fields(message), "{name}");
    }
    // An item's error is a problem without what its code already says.
    let mut problem = http_fields(&openapi, &openapi["components"]["schemas"]["Problem"]);
    for said_by_the_code in ["type", "title", "status"] {
        assert!(problem.remove(said_by_the_code).is_some(), "{said_by_the_code}");
    }
    assert!(problem.remove("requestId").is_some());
    assert_eq!(problem, http_fields(&openapi, &openapi["components"]["schemas"]["Error"]));
}

/// `InvalidArgument` as the gRPC specification writes it.
fn shouted(code: tonic::Code) -> String {
    let name = format!("{code:?}");
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

#[test]
fn the_published_error_table_is_the_one_in_the_code() {
    let readme = include_str!("../../../../docs/api/README.md");
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 7)
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), TABLE.len());
    for (row, code) in rows.iter().zip(&TABLE) {
        let name = code.name;
        let ticked = |text: &str| format!("`{text}`");
        assert_eq!(row[1], ticked(code.slug), "{name}");
        assert_eq!(row[2], ticked(name));
        assert!(row[3].starts_with(&code.http_status.to_string()), "{name}: {}", row[3]);
        assert!(row[4].starts_with(&ticked(&shouted(code.grpc))), "{name}: {}", row[4]);
        assert_eq!(row[5] == "yes", code.retryable, "{name}: {}", row[5]);
    }
    let codes = &openapi()["components"]["schemas"]["Code"]["enum"];
    let table: Vec<_> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(codes, &serde_json::json!(table));
}

#[test]
fn every_file_that_the_life_of_a_request_names_exists() {
    let text = include_str!("../../../../docs/life-of-a-request.md");
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for file in text.split('`').filter(|word| word.ends_with(".rs")) {
        let root =
            if file.starts_with("enclave/") { package.join("..") } else { package.join("src") };
        assert!(root.join(file).is_file(), "{file}");
        named += 1;
    }
    assert!(named > 40, "{named}");
}
