use super::*;

fn target() -> Target {
    Target {
        host: "kms.us-east-1.amazonaws.com".to_owned(),
        region: "us-east-1".to_owned(),
        key_arn: "arn:aws:kms:us-east-1:111122223333:key/1".to_owned(),
    }
}

fn context() -> EncryptionContext {
    EncryptionContext {
        app: "pay".to_owned(),
        keyspace: "default".to_owned(),
        dek_id: [0x0a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    }
}

fn body(operation: &Operation) -> String {
    let request = ExactRequest::new(&target(), &context(), operation, b"document");
    String::from_utf8(request.body).unwrap()
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
    let mut target = target();
    target.key_arn = r#"x","Plaintext":"y"#.to_owned();
    let request = ExactRequest::new(&target, &context(), &Operation::GenerateDataKey, b"");
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["KeyId"], target.key_arn.as_str());
    assert!(body.get("Plaintext").is_none());
}

#[test]
fn the_request_carries_exactly_these_headers() {
    let request =
        ExactRequest::new(&target(), &context(), &Operation::GenerateDataKey, b"document");
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
    assert!(SignatureHeaders::new(date, &longest, &longest).is_ok());
    for bad in ["", "20261121T094413", "20261121T094413Z ", "20261121 094413Z", "2026112aT094413Z"]
    {
        assert_eq!(SignatureHeaders::new(bad, "a", "").unwrap_err(), HeaderError::AmzDate, "{bad}");
    }
    for bad in ["a\r\nhost: x", "a\nb", "a\0", "ä", "a\tb", " a", "a ", " ", &too_long] {
        let authorization = SignatureHeaders::new(date, bad, "").unwrap_err();
        assert_eq!(authorization, HeaderError::Authorization, "{bad:?}");
        let token = SignatureHeaders::new(date, "a", bad).unwrap_err();
        assert_eq!(token, HeaderError::SecurityToken, "{bad:?}");
    }
    assert_eq!(SignatureHeaders::new(date, "", "").unwrap_err(), HeaderError::Authorization);
}

#[test]
fn headers_are_not_printed() {
    let headers = SignatureHeaders::new("20261121T094413Z", "the-signature", "the-token").unwrap();
    let request = ExactRequest::new(&target(), &context(), &Operation::GenerateDataKey, b"");
    let printed = format!("{headers:?} {:?}", headers.sign(&request).unwrap());
    assert!(!printed.contains("the-signature") && !printed.contains("the-token"), "{printed}");
}
