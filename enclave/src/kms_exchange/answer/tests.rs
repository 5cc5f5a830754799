use serde_json::json;

use super::*;
use crate::kms_exchange::recipient::tests::sample_recipient;

const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/1";
const ENVELOPE: &[u8] = include_bytes!("../../../testdata/cms/03-edgebit-enclaver-go.ber");

fn answer(status: u16, error_type: Option<&str>, body: &str) -> Answer {
    let mut response = http::Response::builder().status(status);
    if let Some(error_type) = error_type {
        response = response.header("x-amzn-errortype", error_type);
    }
    let (head, ()) = response.body(()).unwrap().into_parts();
    Answer::new(&head, Bytes::copy_from_slice(body.as_bytes()))
}

fn open(body: &str, operation: &Operation) -> Result<OpenedDek, AnswerError> {
    answer(200, None, body).open(&sample_recipient(), operation, ARN)
}

fn decrypt() -> Operation {
    Operation::Decrypt { wrapped: vec![1] }
}

/// The answer to Decrypt, with `members` over it; null removes one.
fn with(members: &Value) -> String {
    let mut body = json!({
        "CiphertextForRecipient": STANDARD.encode(ENVELOPE),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyId": ARN,
    });
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.as_object_mut().unwrap().retain(|name, value| !value.is_null() || name == "Plaintext");
    body.to_string()
}

fn refused(body: &str, operation: &Operation) -> &'static str {
    let error = open(body, operation).unwrap_err();
    assert_eq!((error.class, error.http_status), (AnswerClass::Refused, 200));
    assert_eq!(error.aws_error_code, "");
    error.reason
}

#[test]
fn a_good_answer_gives_the_dek() {
    for plaintext in [json!({}), json!({ "Plaintext": null }), json!({ "Plaintext": "" })] {
        let opened = open(&with(&plaintext), &decrypt()).unwrap();
        assert!(opened.dek.expose_secret().starts_with(&[0x3b, 0xe8, 0x2c, 0x44]));
        assert_eq!(opened.wrapped, None);
    }
    let generated = with(&json!({ "CiphertextBlob": STANDARD.encode(b"wrapped") }));
    let opened = open(&generated, &Operation::GenerateDataKey).unwrap();
    assert_eq!(opened.wrapped.as_deref(), Some(b"wrapped".as_slice()));
}

#[test]
fn an_answer_that_breaks_a_rule_is_refused() {
    let long = STANDARD.encode(vec![0; WRAPPED_DEK_BYTES_MAX + 1]);
    let cut = STANDARD.encode(&ENVELOPE[..ENVELOPE.len() - 1]);
    let changed = |at: usize| {
        let mut bytes = ENVELOPE.to_vec();
        bytes[at] ^= 1;
        STANDARD.encode(bytes)
    };
    for (members, reason) in [
        (json!({ "Plaintext": "AAAA" }), "Plaintext is present"),
        (json!({ "Plaintext": 1 }), "Plaintext is present"),
        (json!({ "Plaintext": [] }), "Plaintext is present"),
        (json!({ "KeyId": null }), "KeyId is not the pinned key"),
        (json!({ "KeyId": 7 }), "KeyId is not the pinned key"),
        (json!({ "KeyId": format!("{ARN}2") }), "KeyId is not the pinned key"),
        (json!({ "CiphertextForRecipient": null }), "CiphertextForRecipient is absent"),
        (json!({ "CiphertextForRecipient": "" }), "CiphertextForRecipient is absent"),
        (json!({ "CiphertextForRecipient": {} }), "CiphertextForRecipient is absent"),
        (json!({ "CiphertextForRecipient": "*" }), "CiphertextForRecipient is not base64"),
        (json!({ "CiphertextForRecipient": cut }), "CiphertextForRecipient is malformed"),
        (
            json!({ "CiphertextForRecipient": changed(33) }),
            "CiphertextForRecipient is for another key",
        ),
        (json!({ "CiphertextForRecipient": changed(200) }), "CiphertextForRecipient does not open"),
    ] {
        assert_eq!(refused(&with(&members), &decrypt()), reason, "{members}");
    }
    for (blob, reason) in [
        (json!(null), "CiphertextBlob is absent or too long"),
        (json!(""), "CiphertextBlob is absent or too long"),
        (json!(long), "CiphertextBlob is absent or too long"),
        (json!("*"), "CiphertextBlob is not base64"),
    ] {
        let body = with(&json!({ "CiphertextBlob": blob }));
        assert_eq!(refused(&body, &Operation::GenerateDataKey), reason);
    }
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    let good = with(&json!({}));
    let doubled = good.replacen('{', r#"{"KeyId":"x","#, 1);
    let doubled_unknown = good.replacen('{', r#"{"a":1,"a":1,"#, 1);
    let many: Vec<_> = (0..40).map(|index| format!("\"m{index}\":1")).collect();
    let many = good.replacen('{', &format!("{{{},", many.join(",")), 1);
    let deep = good.replacen('{', &format!("{{\"a\":{}{},", "[".repeat(500), "]".repeat(500)), 1);
    let twice = format!("{good}{good}");
    let array = format!("[{good}]");
    for body in ["", "{", "null", "1", &array, &twice, &doubled, &doubled_unknown, &many, &deep] {
        assert_eq!(refused(body, &decrypt()), "not a JSON object with each member once", "{body}");
    }
}

#[test]
fn errors_have_a_class_and_a_name_of_a_closed_list() {
    use AnswerClass::{Denied, Error, Refused, Throttled};
    for (status, code, class, name) in [
        (400, "AccessDeniedException", Denied, "AccessDeniedException"),
        (400, "com.amazonaws.kms#NotFoundException", Denied, "NotFoundException"),
        (400, "IncorrectKeyException:http://x/", Denied, "IncorrectKeyException"),
        (400, "ThrottlingException", Throttled, "ThrottlingException"),
        (400, "ValidationException", Error, "ValidationException"),
        (500, "KMSInternalException", Error, "KMSInternalException"),
        (400, "SomethingNew", Error, "Other"),
        (400, "<script>", Error, "Other"),
        (403, "", Error, "Other"),
        (429, "", Throttled, "Other"),
        (503, "", Error, "Other"),
        (201, "", Refused, "Other"),
        (204, "", Refused, "Other"),
        (302, "", Refused, "Other"),
    ] {
        let body = json!({ "__type": code, "message": "free text" }).to_string();
        for answer in [answer(status, None, &body), answer(status, Some(code), "not json")] {
            let error = answer.open(&sample_recipient(), &decrypt(), ARN).unwrap_err();
            assert_eq!((error.class, error.aws_error_code), (class, name), "{status} {code}");
            assert_eq!(error.http_status, status);
            assert!(!format!("{error:?}").contains("free text"));
        }
    }
}

#[test]
fn a_good_body_with_another_status_gives_no_dek() {
    let body = with(&json!({}));
    for status in [201, 206, 301, 400, 500] {
        let opened = answer(status, None, &body).open(&sample_recipient(), &decrypt(), ARN);
        assert!(opened.is_err(), "{status}");
    }
}

#[test]
fn bodies_are_not_printed() {
    let printed = format!("{:?}", answer(200, None, "secret"));
    assert_eq!(printed, "Answer(200 OK, body redacted)");
    let opened = open(&with(&json!({})), &decrypt()).unwrap();
    assert_eq!(format!("{opened:?}"), "OpenedDek { dek: Secret32(redacted), wrapped: None }");
}
