use super::*;
use crate::error::Code;

const KEY_ID: &str = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";

fn sign_body(digest: &str) -> String {
    format!(r#"{{"keyId":"{KEY_ID}","digest":"{digest}"}}"#)
}

#[test]
fn a_digest_is_32_bytes_with_or_without_0x_and_nothing_else() {
    let hex = "0123456789abcdefABCDEF".repeat(3)[..64].to_owned();
    for digest in [hex.clone(), format!("0x{hex}")] {
        let request = read_sign(sign_body(&digest).as_bytes()).unwrap();
        assert_eq!(const_hex::encode(request.digest), hex.to_lowercase());
    }
    let refused = [
        "11".repeat(31),
        "11".repeat(33),
        "1".repeat(63),
        "1".repeat(65),
        String::new(),
        "0x".to_owned(),
        format!("0X{}", "11".repeat(32)),
        format!("0x0x{}", "1".repeat(60)),
        format!("{}zz", "11".repeat(31)),
        format!(" {}", "1".repeat(63)),
        format!("{}é", "11".repeat(31)),
    ];
    for digest in refused {
        let error = read_sign(sign_body(&digest).as_bytes()).unwrap_err();
        let seen = (error.code, error.field.as_deref());
        assert_eq!(seen, (Code::InvalidArgument, Some("digest")), "{digest}");
    }
}

#[test]
fn every_broken_sign_request_names_its_field() {
    let digest = "11".repeat(32);
    let good = format!(r#""keyId":"{KEY_ID}","digest":"{digest}""#);
    let cases = [
        ("{}".to_owned(), "keyId"),
        (format!(r#"{{"keyId":"{KEY_ID}"}}"#), "digest"),
        (format!(r#"{{"digest":"{digest}"}}"#), "keyId"),
        (format!(r#"{{{good},"extra":1}}"#), "extra"),
        (format!(r#"{{{good},"digest":"{digest}"}}"#), "digest"),
        (format!(r#"{{{good},"keyId":"{KEY_ID}"}}"#), "keyId"),
        (format!(r#"{{"keyId":7,"digest":"{digest}"}}"#), "keyId"),
        (format!(r#"{{"keyId":null,"digest":"{digest}"}}"#), "keyId"),
        (format!(r#"{{"keyId":"{KEY_ID}","digest":["{digest}"]}}"#), "digest"),
        (format!(r#"{{"keyId":"{KEY_ID}","digest":{{"a":[1]}}}}"#), "digest"),
        (format!(r#"{{{good},"der":"true"}}"#), "der"),
        (format!(r#"{{{good},"der":1}}"#), "der"),
        (format!(r#"{{{good},"authorization":"00"}}"#), "authorization"),
        (format!(r#"{{{good},"authorization":"{}"}}"#, "00".repeat(513)), "authorization"),
        (format!(r#"{{{good},"tenantId":"t"}}"#), "tenantId"),
        (format!(r#"{{"keyId":"{}","digest":"{digest}"}}"#, KEY_ID.to_uppercase()), "keyId"),
        (format!(r#"{{"keyId":"{}b","digest":"{digest}"}}"#, &KEY_ID[..27]), "keyId"),
        (format!(r#"{{"keyId":" {KEY_ID}","digest":"{digest}"}}"#), "keyId"),
        (format!(r#"{{"keyId":"","digest":"{digest}"}}"#), "keyId"),
        (format!(r#"{{"\u006beyId":"x","keyId":"{KEY_ID}","digest":"{digest}"}}"#), "keyId"),
        (format!("{{{good}}} x"), "body"),
        (format!("[{{{good}}}]"), "body"),
        (format!("{{{good}"), "body"),
        (String::new(), "body"),
        ("null".to_owned(), "body"),
        ("{1:2}".to_owned(), "body"),
        (
            format!(
                "{{{}}}",
                (0..20).map(|n| format!(r#""f{n}":1"#)).collect::<Vec<_>>().join(",")
            ),
            "body",
        ),
    ];
    for (body, field) in cases {
        let error = read_sign(body.as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{body}");
        assert_eq!(error.field.as_deref(), Some(field), "{body}: {error}");
    }
    assert!(read_sign(&[b'{', b'"', 0xff, b'"', b':', b'1', b'}']).is_err());
    let request =
        read_sign(format!(r#"{{{good},"der":true,"authorization":"","tenantId":""}}"#).as_bytes());
    assert!(request.unwrap().der);
}

#[test]
fn every_broken_create_request_names_its_field() {
    let cases = [
        (r#"{"keyspace":""}"#.to_owned(), "keyspace"),
        (r#"{"keyspace":"UPPER"}"#.to_owned(), "keyspace"),
        (format!(r#"{{"keyspace":"{}"}}"#, "a".repeat(64)), "keyspace"),
        (r#"{"keyspace":true}"#.to_owned(), "keyspace"),
        (r#"{"idempotencyKey":""}"#.to_owned(), "idempotencyKey"),
        (format!(r#"{{"idempotencyKey":"{}"}}"#, "a".repeat(129)), "idempotencyKey"),
        (r#"{"challenge":"0"}"#.to_owned(), "challenge"),
        (r#"{"challenge":"zz"}"#.to_owned(), "challenge"),
        (format!(r#"{{"challenge":"{}"}}"#, "00".repeat(65)), "challenge"),
        (r#"{"policy":"00"}"#.to_owned(), "policy"),
        (format!(r#"{{"policy":"{}"}}"#, "00".repeat(1025)), "policy"),
        (r#"{"policy":{}}"#.to_owned(), "policy"),
        (r#"{"tenantId":"t"}"#.to_owned(), "tenantId"),
        (r#"{"privateKey":"00"}"#.to_owned(), "privateKey"),
        (r#"{"keyspace":"a","keyspace":"a"}"#.to_owned(), "keyspace"),
    ];
    for (body, field) in cases {
        let error = read_create(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::InvalidArgument, Some(field)),
            "{body}"
        );
    }
    let request = read_create(br#"{"policy":"","challenge":"0xAB"}"#).unwrap();
    assert_eq!((request.keyspace.as_str(), &request.challenge[..]), ("default", &[0xab][..]));
}

#[test]
fn nonces_are_one_to_64_bytes() {
    assert_eq!(read_nonce("0xff").unwrap()[..], [0xff]);
    for bad in ["", "0x", "f", "zz", &"00".repeat(65)] {
        assert_eq!(read_nonce(bad).unwrap_err().field.as_deref(), Some("nonce"), "{bad}");
    }
}

#[test]
fn a_problem_has_all_its_members() {
    let error = Error {
        unlock_request_id: Some("u-1".to_owned()),
        field: Some("keyId".into()),
        ..Error::new(Code::UnlockRequired, "locked")
    };
    let problem = problem(&error, "r-1");
    let expected = serde_json::json!({
        "type": "https://sigil.dev/errors/unlock-required",
        "title": "The keyspace is being unlocked",
        "status": 503,
        "code": "UNLOCK_REQUIRED",
        "detail": "locked",
        "field": "keyId",
        "retryAfterMs": 100,
        "requestId": "r-1",
        "unlockRequestId": "u-1",
    });
    assert_eq!(problem, expected);
}

#[test]
fn the_signature_answer_is_json() {
    let mut answer = Signed {
        key_id: KEY_ID.parse().unwrap(),
        public_key: [2; 33],
        signature: [3; 64],
        recovery_id: 1,
        der: None,
    };
    let value: Value = serde_json::from_slice(&signed(&answer)).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "keyId": KEY_ID,
            "publicKey": "02".repeat(33),
            "signature": "03".repeat(64),
            "recoveryId": 1,
        })
    );
    answer.der = Some(vec![0x30, 0x06]);
    let value: Value = serde_json::from_slice(&signed(&answer)).unwrap();
    assert_eq!(value["der"], "3006");
}

fn batch_body(requests: &[String]) -> String {
    format!(r#"{{"requests":[{}]}}"#, requests.join(","))
}

#[test]
fn what_is_wrong_with_one_request_of_a_batch_is_its_own_result() {
    let good = sign_body(&"11".repeat(32));
    let requests = [
        good.clone(),
        sign_body("11"),
        "{}".to_owned(),
        good.replace("digest", "digset"),
        good.replace('}', r#","der":1}"#),
        good.clone(),
    ];
    let results = read_batch(batch_body(&requests).as_bytes()).unwrap();
    let fields: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|error| error.field.as_deref().unwrap()))
        .collect();
    let expected = [None, Some("digest"), Some("keyId"), Some("digset"), Some("der"), None];
    assert_eq!(fields, expected);
}

#[test]
fn a_batch_that_is_none_is_refused_as_a_whole() {
    let good = sign_body(&"11".repeat(32));
    let most = vec![good.clone(); 256];
    let body = batch_body(&most);
    assert!(body.len() <= crate::config::Limits::default().body_bytes_max, "{}", body.len());
    assert_eq!(read_batch(body.as_bytes()).unwrap().len(), most.len());
    let cases = [
        (batch_body(&[]), "requests"),
        (batch_body(&[most.as_slice(), std::slice::from_ref(&good)].concat()), "requests"),
        ("{}".to_owned(), "requests"),
        (format!(r#"{{"requests":[{good}],"requests":[{good}]}}"#), "requests"),
        (format!(r#"{{"requests":[{good}],"der":true}}"#), "der"),
        (format!("[{good}]"), "body"),
        (r#"{"requests":[1]}"#.to_owned(), "body"),
        (r#"{"requests":{}}"#.to_owned(), "body"),
        (format!(r#"{{"requests":[{good}]"#), "body"),
        (String::new(), "body"),
    ];
    for (body, field) in cases {
        let error = read_batch(body.as_bytes()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{body}: {error}");
    }
}

#[test]
fn the_answer_of_a_batch_is_json() {
    let signature = Signed {
        key_id: KEY_ID.parse().unwrap(),
        public_key: [2; 33],
        signature: [3; 64],
        recovery_id: 1,
        der: None,
    };
    let locked = Error {
        unlock_request_id: Some("u-1".to_owned()),
        ..Error::new(Code::UnlockRequired, "locked \"for now\"")
    };
    let value: Value =
        serde_json::from_slice(&signed_batch(&[Ok(signature), Err(locked)])).unwrap();
    assert_eq!(value["results"][0]["signed"]["keyId"], KEY_ID);
    let error = serde_json::json!({
        "code": "UNLOCK_REQUIRED",
        "detail": "locked \"for now\"",
        "retryAfterMs": 100,
        "unlockRequestId": "u-1",
    });
    assert_eq!(value["results"][1], serde_json::json!({ "error": error }));
    assert_eq!(signed_batch(&[]), "{\"results\":[]}");
}
