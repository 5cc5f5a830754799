use serde_json::{Value, json};

use super::*;

const AUTHOR: &str = "arn:aws:iam::111122223333:role/admin";
const USER: &str = "arn:aws:iam::111122223333:role/user";
const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1";
const PCR0: &str = "kms:RecipientAttestation:PCR0";

fn administration_and(statement: &Value) -> String {
    json!({ "Version": "2012-10-17", "Statement": [
        {
            "Effect": "Allow",
            "Principal": { "AWS": AUTHOR },
            "Action": "kms:PutKeyPolicy",
            "Resource": "*",
        },
        statement,
    ]})
    .to_string()
}

/// What a policy of this one statement says about Decrypt by [`USER`] with these condition keys.
fn decide(statement: &Value, keys: &[(&str, &str)]) -> Decision {
    let policy = Policy::parse(&administration_and(statement), AUTHOR).unwrap();
    let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    policy.decide(&Request { principal: USER, action: "kms:Decrypt", key_arn: KEY, keys })
}

fn allow(element: &str, value: Value) -> Value {
    let mut statement = json!({
        "Effect": "Allow", "Principal": { "AWS": USER }, "Action": "kms:Decrypt", "Resource": "*",
    });
    statement[element] = value;
    statement
}

#[test]
fn principals_actions_and_resources() {
    use Decision::{Allowed, NotAllowed};
    for (element, value, decision) in [
        ("Principal", json!("*"), Allowed),
        ("Principal", json!({ "AWS": "*" }), Allowed),
        ("Principal", json!({ "AWS": USER }), Allowed),
        ("Principal", json!({ "AWS": [AUTHOR, USER] }), Allowed),
        ("Principal", json!({ "AWS": AUTHOR }), NotAllowed),
        ("Principal", json!({ "AWS": [] }), NotAllowed),
        ("Principal", json!({ "AWS": "arn:aws:iam::111122223333:root" }), NotAllowed),
        ("Principal", json!({ "AWS": "arn:aws:iam::111122223333:role/*" }), NotAllowed),
        ("Action", json!("*"), Allowed),
        ("Action", json!("kms:*"), Allowed),
        ("Action", json!("kms:decrypt"), Allowed),
        ("Action", json!("kms:De*t"), Allowed),
        ("Action", json!("kms:Decryp?"), Allowed),
        ("Action", json!(["kms:Encrypt", "kms:Decrypt"]), Allowed),
        ("Action", json!("kms:Decrypt?"), NotAllowed),
        ("Action", json!("kms:ReEncrypt*"), NotAllowed),
        ("Action", json!([]), NotAllowed),
        ("Resource", json!(KEY), Allowed),
        ("Resource", json!("arn:aws:kms:us-east-1:111122223333:key/2"), NotAllowed),
        ("Effect", json!("Deny"), Decision::ExplicitlyDenied),
    ] {
        assert_eq!(decide(&allow(element, value.clone()), &[]), decision, "{element} {value}");
    }
}

#[test]
fn conditions() {
    let absent: &[(&str, &str)] = &[];
    let (same, other_case, other) = (&[(PCR0, "ab")], &[(PCR0, "AB")], &[(PCR0, "cd")]);
    for (operator, values, keys, holds) in [
        ("StringEquals", json!("ab"), same.as_slice(), true),
        ("StringEquals", json!("ab"), other_case, false),
        ("StringEquals", json!("ab"), other, false),
        ("StringEquals", json!("ab"), absent, false),
        ("StringEquals", json!(["xy", "ab"]), same, true),
        ("StringEquals", json!([]), same, false),
        ("StringEquals", json!("a*"), same, false),
        ("StringNotEquals", json!("ab"), same, false),
        ("StringNotEquals", json!("ab"), other_case, true),
        ("StringNotEquals", json!("ab"), absent, true),
        ("StringNotEquals", json!(["xy", "ab"]), same, false),
        ("StringNotEquals", json!(["xy", "ab"]), other, true),
        ("StringEqualsIgnoreCase", json!("ab"), other_case, true),
        ("StringEqualsIgnoreCase", json!("ab"), other, false),
        ("StringEqualsIgnoreCase", json!("ab"), absent, false),
        ("StringNotEqualsIgnoreCase", json!("ab"), other_case, false),
        ("StringNotEqualsIgnoreCase", json!("ab"), other, true),
        ("StringNotEqualsIgnoreCase", json!("ab"), absent, true),
        ("Null", json!("true"), absent, true),
        ("Null", json!("true"), same, false),
        ("Null", json!("false"), same, true),
        ("Null", json!("false"), absent, false),
    ] {
        for key in [PCR0, "KMS:recipientattestation:pcr0"] {
            let condition = json!({ operator: { key: values } });
            for (effect, applies) in
                [("Allow", Decision::Allowed), ("Deny", Decision::ExplicitlyDenied)]
            {
                let mut statement = allow("Condition", condition.clone());
                statement["Effect"] = json!(effect);
                let decision = if holds { applies } else { Decision::NotAllowed };
                assert_eq!(decide(&statement, keys), decision, "{effect} {condition} {keys:?}");
            }
        }
    }
}

#[test]
fn all_conditions_of_a_statement_must_hold() {
    let context = "kms:EncryptionContext:app";
    let condition = json!({
        "StringEquals": { PCR0: "ab", context: "pay" },
        "Null": { "kms:EncryptionContext:debug": "true" },
    });
    let decide = |keys: &[(&str, &str)]| decide(&allow("Condition", condition.clone()), keys);
    assert_eq!(decide(&[(PCR0, "ab"), (context, "pay")]), Decision::Allowed);
    assert_eq!(decide(&[(PCR0, "ab")]), Decision::NotAllowed);
    assert_eq!(decide(&[(PCR0, "ab"), (context, "other")]), Decision::NotAllowed);
    let debug = ("kms:EncryptionContext:debug", "");
    assert_eq!(decide(&[(PCR0, "ab"), (context, "pay"), debug]), Decision::NotAllowed);
}

#[test]
fn what_is_not_understood_is_refused() {
    for (element, value) in [
        ("Principal", json!("somebody")),
        ("Principal", json!({ "Service": "ec2.amazonaws.com" })),
        ("NotAction", json!("kms:Encrypt")),
        ("NotPrincipal", json!("*")),
        ("Action", json!("s3:GetObject")),
        ("Effect", json!("allow")),
        ("Condition", json!({ "StringLike": { PCR0: "*" } })),
        ("Condition", json!({ "Null": { PCR0: "yes" } })),
        ("Condition", json!({ "StringEquals": { "aws:SourceIp": "::1" } })),
        ("Condition", json!({ "StringEquals": { "kms:RecipientAttestation:PCR32": "ab" } })),
        ("Condition", json!({ "StringEquals": { "kms:EncryptionContext:": "ab" } })),
    ] {
        let text = administration_and(&allow(element, value.clone()));
        let error = Policy::parse(&text, AUTHOR).unwrap_err();
        assert!(matches!(error, PolicyError::Malformed(_)), "{element} {value}: {error}");
    }
    let long = administration_and(&allow("Sid", json!("x".repeat(POLICY_BYTES_MAX))));
    for text in ["", "{}", r#"{"Version":"2008-10-17","Statement":[]}"#, &long] {
        assert!(matches!(Policy::parse(text, AUTHOR), Err(PolicyError::Malformed(_))));
    }
}

#[test]
fn a_policy_that_locks_out_its_author_is_refused() {
    let text = administration_and(&allow("Sid", json!("x")));
    assert!(Policy::parse(&text, AUTHOR).is_ok());
    let error = Policy::parse(&text, USER).unwrap_err();
    assert_eq!(error, PolicyError::LocksOutAuthor(USER.to_owned()));
    let mut denied = allow("Effect", json!("Deny"));
    denied["Principal"] = json!("*");
    denied["Action"] = json!("kms:*");
    let error = Policy::parse(&administration_and(&denied), AUTHOR).unwrap_err();
    assert_eq!(error, PolicyError::LocksOutAuthor(AUTHOR.to_owned()));
    let ours = Policy::administration_only(AUTHOR).to_json();
    assert_eq!(Policy::parse(&ours, AUTHOR).unwrap(), Policy::administration_only(AUTHOR));
}

fn measured(app: &str, pcr0: &str, pcr3: Option<&str>) -> Measured {
    let measured = json!({
        "formatVersion": 1, "kind": "eif", "app": app, "pcr0": pcr0.repeat(48), "insecure": false,
        "pcr3": pcr3.map(|byte| byte.repeat(48)),
        "kms": [{ "prefix": "", "keyArns": [KEY], "region": "us-east-1", "host": "h" }],
    });
    serde_json::from_value(measured).unwrap()
}

/// Decrypt by [`USER`] under the policy for two images, with one thing changed at a time.
#[test]
fn the_rendered_policy_allows_attested_use_and_nothing_else() {
    let images = [measured("pay", "ab", Some("33")), measured("pay", "cd", Some("33"))];
    let policy = attested_use(&images, None, KEY, USER, AUTHOR).unwrap();
    assert_eq!(Policy::parse(&policy.to_json(), AUTHOR).unwrap(), policy);
    let good = [
        (PCR0, "ab".repeat(48)),
        ("kms:RecipientAttestation:PCR3", "33".repeat(48)),
        ("kms:EncryptionContext:app", "pay".to_owned()),
    ];
    let decide = |principal: &str, action: &str, change: Option<(usize, Option<&str>)>| {
        let mut keys: BTreeMap<_, _> =
            good.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        if let Some((index, value)) = change {
            keys.remove(good[index].0);
            keys.extend(value.map(|value| (good[index].0.to_owned(), value.to_owned())));
        }
        policy.decide(&Request { principal, action: &format!("kms:{action}"), key_arn: KEY, keys })
    };
    let denied = Decision::ExplicitlyDenied;
    for action in ["Decrypt", "GenerateDataKey"] {
        assert_eq!(decide(USER, action, None), Decision::Allowed);
        assert_eq!(decide(USER, action, Some((0, Some(&"cd".repeat(48))))), Decision::Allowed);
        assert_eq!(decide(AUTHOR, action, None), Decision::NotAllowed);
        for index in 0..good.len() {
            assert_eq!(decide(USER, action, Some((index, None))), denied, "{index} absent");
            assert_eq!(decide(USER, action, Some((index, Some("00")))), denied, "{index} other");
        }
    }
    for action in [
        "Encrypt",
        "ReEncryptFrom",
        "ReEncryptTo",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "CreateGrant",
        "ImportKeyMaterial",
    ] {
        assert_eq!(decide(USER, action, None), denied, "{action}");
        assert_eq!(decide(AUTHOR, action, None), denied, "{action}");
    }
    assert_eq!(decide(AUTHOR, "PutKeyPolicy", None), Decision::Allowed);
    assert_eq!(decide(USER, "PutKeyPolicy", None), Decision::NotAllowed);
    assert_eq!(decide(USER, "ScheduleKeyDeletion", None), Decision::NotAllowed);
}

#[test]
fn measurements_that_give_no_policy() {
    let render = |images: &[Measured], role| attested_use(images, role, KEY, USER, AUTHOR);
    assert_eq!(render(&[], None), Err(RenderError::Empty));
    let image = measured("pay", "ab", None);
    assert_eq!(render(std::slice::from_ref(&image), None), Err(RenderError::NoRole));
    assert!(render(std::slice::from_ref(&image), Some(USER)).is_ok());
    let apps = [image.clone(), measured("other", "ab", None)];
    let error = render(&apps, Some(USER)).unwrap_err();
    assert_eq!(error, RenderError::Apps("pay".to_owned(), "other".to_owned()));
    let error = render(&[measured("pay", "AB", None)], Some(USER)).unwrap_err();
    assert_eq!(error, RenderError::Pcr("AB".repeat(48)));
    let newer = json!({ "formatVersion": 2, "app": "a", "pcr0": "", "kms": [] });
    let newer = serde_json::from_value(newer).unwrap();
    assert_eq!(render(&[newer], Some(USER)), Err(RenderError::FormatVersion(2)));
    let error = attested_use(&[image], Some(USER), "arn:other", USER, AUTHOR).unwrap_err();
    assert!(error.to_string().contains("arn:other"), "{error}");
}

/// What the enclave's own code computes, which is checked against AWS's example.
#[test]
fn pcr3_of_a_role() {
    let expected = sigil_image_authoring::measure::parent_role(USER);
    assert_eq!(pcr3_of_role(USER), const_hex::encode(expected));
}
