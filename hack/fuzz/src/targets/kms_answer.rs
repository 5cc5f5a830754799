//! Answers of KMS. The first byte chooses the operation, the next two the HTTP status; the rest is
//! the body. What gives a DEK also does so by the rules read with a plain JSON reader.

use bytes::Bytes;
use serde_json::Value;
use sigil_enclave::kms_exchange::{Answer, AnswerClass, Operation};

use crate::Target;
use crate::fixtures::{ENVELOPES, RECIPIENT};

pub(crate) const TARGET: Target = Target {
    name: "kms-answer",
    input_bytes_max: 21 * 1024,
    // A JSON value in memory takes up to 30 times its text.
    memory_bytes_max: 2 * 1024 * 1024,
    check,
    seeds,
};

const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/1";

fn check(input: &[u8]) {
    let Some((&[generates, high, low], body)) = input.split_first_chunk() else { return };
    let Ok(response) = http::Response::builder()
        .status(u16::from_be_bytes([high, low]))
        .header("x-amzn-errortype", body.get(..40.min(body.len())).unwrap_or_default())
        .body(())
        .or_else(|_| http::Response::builder().status(u16::from_be_bytes([high, low])).body(()))
    else {
        return;
    };
    let (head, ()) = response.into_parts();
    let generates = generates & 1 == 1;
    let operation = if generates {
        Operation::GenerateDataKey
    } else {
        Operation::Decrypt { wrapped: vec![1] }
    };
    let status = head.status.as_u16();
    let answer = Answer::new(&head, Bytes::copy_from_slice(body));
    match answer.open(&RECIPIENT, &operation, ARN) {
        Ok(opened) => {
            assert_eq!(status, 200);
            assert_eq!(opened.wrapped.is_some(), generates);
            let read: Value = serde_json::from_slice(body).expect("read as JSON once already");
            assert_eq!(read["KeyId"], ARN);
            let plaintext = &read["Plaintext"];
            assert!(plaintext.is_null() || plaintext == "", "Plaintext is present");
            assert!(read["CiphertextForRecipient"].is_string());
            assert!(!generates || read["CiphertextBlob"].is_string());
        }
        Err(error) => {
            assert_eq!(error.http_status, status);
            let refused = matches!(error.class, AnswerClass::Refused);
            assert!(status == 200 || !error.aws_error_code.is_empty());
            assert!(status != 200 || (refused && error.aws_error_code.is_empty()));
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let envelope = base64(ENVELOPES[2]);
    let good = format!(
        r#"{{"CiphertextBlob":"AQID","CiphertextForRecipient":"{envelope}","KeyId":"{ARN}"}}"#
    );
    let plaintext = good.replacen('{', r#"{"Plaintext":"AAAA","#, 1);
    let denied = r#"{"__type":"com.amazonaws.kms#AccessDeniedException:http://x","message":""}"#;
    let ok = 200_u16.to_be_bytes();
    let no = 400_u16.to_be_bytes();
    vec![
        [&[1], ok.as_slice(), good.as_bytes()].concat(),
        [&[0], ok.as_slice(), good.as_bytes()].concat(),
        [&[0], ok.as_slice(), plaintext.as_bytes()].concat(),
        [&[0], no.as_slice(), denied.as_bytes()].concat(),
        [&[0], no.as_slice(), b"ThrottlingException"].concat(),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[index]) });
        }
    }
    text
}
