use super::*;

const KEY_ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/1";

/// The request for a DEK under this key.
fn request(key_arn: &str, operation: &Operation) -> ExactRequest {
    let rule = KeyspaceRule {
        prefix: String::new(),
        key_arns: vec![key_arn.to_owned()],
        region: "us-east-1".to_owned(),
        host: "kms.us-east-1.amazonaws.com".to_owned(),
    };
    let asked = AskedDek {
        rule: &rule,
        key_arn,
        app: "pay",
        keyspace: &Keyspace::parse("default").unwrap(),
        dek_id: [0x0a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    };
    ExactRequest::new(&asked, operation, b"document")
}

fn body(operation: &Operation) -> String {
    String::from_utf8(request(KEY_ARN, operation).body).unwrap()
}

#[test]
fn generate_data_key_is_this_text() {
    assert_eq!(
        body(&Operation::GenerateDataKey),
        concat!(
            r#"{"EncryptionContext":{"app":"pay","#,
            r#""dek_id":"0a0102030405060708090a0b0c0d0e0f","keyspace":"default"},"#,
            r#""KeyId":"arn:aws:kms:us-east-1:111122223333:key/1","KeySpec":"AES_256","#,
            r#""Recipient":{"AttestationDocument":"ZG9jdW1lbnQ=","#,
            r#""KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256"}}"#,
        )
    );
}

#[test]
fn decrypt_is_this_text() {
    assert_eq!(
        body(&Operation::Decrypt { wrapped: b"wrapped".to_vec() }),
        concat!(
            r#"{"CiphertextBlob":"d3JhcHBlZA==","EncryptionAlgorithm":"SYMMETRIC_DEFAULT","#,
            r#""EncryptionContext":{"app":"pay","#,
            r#""dek_id":"0a0102030405060708090a0b0c0d0e0f","keyspace":"default"},"#,
            r#""KeyId":"arn:aws:kms:us-east-1:111122223333:key/1","#,
            r#""Recipient":{"AttestationDocument":"ZG9jdW1lbnQ=","#,
            r#""KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256"}}"#,
        )
    );
}

#[test]
fn pinned_texts_cannot_break_out_of_the_template() {
    let key_arn = r#"x","Plaintext":"y"#;
    let request = request(key_arn, &Operation::GenerateDataKey);
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["KeyId"], key_arn);
    assert!(body.get("Plaintext").is_none());
}

#[test]
fn the_request_carries_exactly_these_headers() {
    let request = request(KEY_ARN, &Operation::GenerateDataKey);
    let headers = |token| {
        let headers = SignatureHeaders::new("20261121T094413Z", "AWS4-HMAC-SHA256 x", token);
        let signed = headers.unwrap().sign(&request).unwrap();
        assert_eq!((signed.method(), signed.uri().path()), (&http::Method::POST, "/"));
        let mut lines: Vec<_> = signed
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    };
    let expected = [
        "authorization: AWS4-HMAC-SHA256 x",
        "connection: close",
        "content-type: application/x-amz-json-1.1",
        "host: kms.us-east-1.amazonaws.com",
        "x-amz-date: 20261121T094413Z",
        "x-amz-security-token: t",
        "x-amz-target: TrentService.GenerateDataKey",
    ];
    assert_eq!(headers("t"), expected);
    assert_eq!(headers("").len(), expected.len() - 1);
}

#[test]
fn signature_headers_are_checked() {
    let longest = "a".repeat(AMZ_HEADER_BYTES_MAX);
    let too_long = "a".repeat(AMZ_HEADER_BYTES_MAX + 1);
    let date = "20261121T094413Z";
    assert!(SignatureHeaders::new(date, &longest, &longest).is_some());
    for bad in ["", "20261121T094413", "20261121T094413Z ", "20261121 094413Z", "2026112aT094413Z"]
    {
        assert!(SignatureHeaders::new(bad, "a", "").is_none(), "{bad}");
    }
    for bad in ["a\r\nhost: x", "a\nb", "a\0", "ä", "a\tb", " a", "a ", " ", &too_long] {
        assert!(SignatureHeaders::new(date, bad, "").is_none(), "authorization {bad:?}");
        assert!(SignatureHeaders::new(date, "a", bad).is_none(), "token {bad:?}");
    }
    assert!(SignatureHeaders::new(date, "", "").is_none());
}

#[test]
fn headers_are_not_printed() {
    let headers = SignatureHeaders::new("20261121T094413Z", "the-signature", "the-token").unwrap();
    let request = request(KEY_ARN, &Operation::GenerateDataKey);
    let printed = format!("{headers:?} {:?}", headers.sign(&request).unwrap());
    assert!(!printed.contains("the-signature") && !printed.contains("the-token"), "{printed}");
}
