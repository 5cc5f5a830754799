//! Tokens that are right, and each way in which one is not.

use serde_json::{Value, json};

use super::*;
use crate::config::{Auth, Tokens};

mod cluster;

use cluster::{AUDIENCE, Cluster, ISSUER, es256, payload, text};

const NOW_S: u64 = 1_800_000_000;

fn keys(cluster: &Cluster) -> KeySet {
    KeySet::parse(cluster.jwks().as_bytes()).unwrap()
}

fn expected() -> Expected {
    Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), leeway_s: 30 }
}

#[test]
fn tokens_of_both_algorithms_say_who_and_where() {
    let cluster = Cluster::new();
    for (alg, kid) in [("ES256", "ec-1"), ("RS256", "rsa-1")] {
        let token =
            cluster.token(&json!({"alg": alg, "kid": kid, "typ": "JWT"}), &payload("web", NOW_S));
        let claims = verify(&token, &keys(&cluster), &expected(), NOW_S).unwrap();
        assert_eq!(claims.subject(), "serviceAccount:shop/web");
        assert_eq!(
            (claims.pod.as_deref(), claims.node.as_deref()),
            (Some("checkout-0"), Some("node-1"))
        );
        assert_eq!(claims.expires_s, NOW_S + 3_600);
    }
    let mut single = payload("web", NOW_S);
    single["aud"] = "sigil:payments/signer".into();
    single["kubernetes.io"] = json!({"namespace": "shop", "serviceaccount": {"name": "web"}});
    let claims = verify(&cluster.token(&es256(), &single), &keys(&cluster), &expected(), NOW_S);
    assert_eq!(claims.unwrap().pod, None);
}

#[test]
fn what_a_token_says_must_fit() {
    use TokenError as E;
    let cluster = Cluster::new();
    let cases: [(&str, Value, E); 14] = [
        ("iss", json!("https://other.example"), E::Issuer),
        ("iss", json!(7), E::Malformed),
        ("aud", json!(["https://cluster.example"]), E::Audience),
        ("aud", json!([]), E::Audience),
        ("aud", json!("sigil:payments/signer2"), E::Audience),
        ("exp", json!(NOW_S - 30), E::Expired),
        ("exp", json!(-1), E::Malformed),
        ("exp", Value::Null, E::Malformed),
        ("nbf", json!(NOW_S + 31), E::NotYetValid),
        ("iat", json!(NOW_S + 31), E::NotYetValid),
        ("sub", json!("system:serviceaccount:shop:admin"), E::Subject),
        ("sub", json!("web"), E::Subject),
        ("sub", json!("system:serviceaccount:shop:web:x"), E::Subject),
        ("kubernetes.io", json!({"namespace": "shop"}), E::Malformed),
    ];
    for (field, value, error) in cases {
        let mut payload = payload("web", NOW_S);
        payload[field] = value.clone();
        let token = cluster.token(&es256(), &payload);
        let said = verify(&token, &keys(&cluster), &expected(), NOW_S);
        assert_eq!(said, Err(error), "{field}: {value}");
    }
    let token = cluster.good("web", NOW_S);
    let at = |now_s| verify(&token, &keys(&cluster), &expected(), now_s).map(drop);
    assert_eq!(at(NOW_S + 3_629), Ok(()), "clocks may differ by the leeway");
    assert_eq!(at(NOW_S + 3_630), Err(E::Expired));
    assert_eq!(at(NOW_S - 30), Ok(()));
    assert_eq!(at(NOW_S - 31), Err(E::NotYetValid));
    let odd = cluster.good("a/b", NOW_S);
    assert_eq!(verify(&odd, &keys(&cluster), &expected(), NOW_S), Err(E::Subject));
}

#[test]
fn the_key_says_which_algorithm_and_the_token_cannot() {
    use TokenError as E;
    let cluster = Cluster::new();
    let payload = payload("web", NOW_S);
    let cases = [
        (json!({"alg": "none", "kid": "ec-1"}), E::Algorithm),
        (json!({"alg": "None", "kid": "ec-1"}), E::Algorithm),
        (json!({"alg": "HS256", "kid": "rsa-1"}), E::Algorithm),
        (json!({"alg": "HS256", "kid": "hmac"}), E::UnknownKey),
        (json!({"alg": "RS256", "kid": "ec-1"}), E::Algorithm),
        (json!({"alg": "ES256", "kid": "rsa-1"}), E::Algorithm),
        (json!({"alg": "ES384", "kid": "p384"}), E::UnknownKey),
        (json!({"alg": "RS256", "kid": "enc"}), E::UnknownKey),
        (json!({"alg": "ES256", "kid": "ec-2"}), E::UnknownKey),
        (json!({"alg": "ES256"}), E::Malformed),
        (json!({"kid": "ec-1"}), E::Malformed),
        (json!({"alg": "ES256", "kid": "ec-1", "crit": ["b64"], "b64": false}), E::Algorithm),
    ];
    for (header, error) in cases {
        let token = cluster.token(&header, &payload);
        let said = verify(&token, &keys(&cluster), &expected(), NOW_S);
        assert_eq!(said, Err(error), "{header}");
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert!(verify(&unsigned, &keys(&cluster), &expected(), NOW_S).is_err(), "{header}");
    }
    // HMAC under the public key is the classic confusion: the key is RSA's and stays it.
    let other = Cluster::new().good("web", NOW_S);
    assert_eq!(verify(&other, &keys(&cluster), &expected(), NOW_S), Err(E::Signature));
}

#[test]
fn every_changed_or_missing_character_is_refused() {
    let cluster = Cluster::new();
    let (keys, token) = (self::keys(&cluster), cluster.good("web", NOW_S));
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verify(&changed, &keys, &expected(), NOW_S).is_err(), "{at}: {changed}");
        assert!(verify(&token[..at], &keys, &expected(), NOW_S).is_err(), "{at}");
    }
    for bad in [format!("{token}="), format!(" {token}"), format!("{token}.x"), "a".repeat(9_000)] {
        assert!(verify(&bad, &keys, &expected(), NOW_S).is_err());
    }
}

#[test]
fn a_set_of_keys_is_read_strictly() {
    let cluster = Cluster::new();
    assert_eq!(keys(&cluster).ids().collect::<Vec<_>>(), ["ec-1", "rsa-1"]);
    let mut set: Value = serde_json::from_str(&cluster.jwks()).unwrap();
    set["keys"][1]["kid"] = "ec-1".into();
    assert!(KeySet::parse(set.to_string().as_bytes()).is_err(), "two keys of one id");
    set["keys"][1]["kid"] = "".into();
    assert!(KeySet::parse(set.to_string().as_bytes()).is_err(), "a key without an id");
    for bad in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a"}]}"#] {
        assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    // An RSA key that is too short to be one.
    let weak = json!({"keys": [{"kty": "RSA", "kid": "a", "n": text([0xff; 128]), "e": "AQAB"}]});
    assert!(KeySet::parse(weak.to_string().as_bytes()).is_err());
}

/// Who takes tokens and knows no key yet, and the file that its keys will be in.
fn authenticator(folder: &std::path::Path) -> (Arc<Authenticator>, Arc<Metrics>, Source) {
    let tokens = Tokens {
        enabled: true,
        issuer: ISSUER.to_owned(),
        audience: Some(AUDIENCE.to_owned()),
        ..Tokens::default()
    };
    let config = Config { auth: Auth { tokens }, ..Config::default() };
    let metrics = Arc::new(Metrics::new());
    let access = Arc::new(Access::new(&config));
    let authenticator = Authenticator::new(&config, access, Arc::clone(&metrics));
    (Arc::new(authenticator), metrics, Source::File(folder.join("jwks.json")))
}

/// Who asks with this header, without anything remembered.
fn asks(authenticator: &Authenticator, authorization: Option<&str>) -> Result<String, Code> {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value.parse().unwrap());
    }
    let known = (&Remembered::default(), &CallerCache::default());
    let caller = authenticator.caller(&headers, &Peer::Loopback, known);
    caller.map(|caller| caller.name().to_owned()).map_err(|error| error.code)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..1_000 {
        ticks.tick().await;
        if holds() {
            return;
        }
    }
    panic!("not in time: {what}");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay_and_an_unknown_one_asks_for_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let (authenticator, metrics, source) = authenticator(folder.path());
    let cluster = Cluster::new();
    let good = format!("Bearer {}", cluster.good("web", unix_now()));
    let unknown = json!({"alg": "ES256", "kid": "ec-2"});
    let unknown = format!("Bearer {}", cluster.token(&unknown, &payload("web", unix_now())));

    assert_eq!(asks(&authenticator, Some(&good)), Err(Code::RetryLater), "no keys yet");
    tokio::spawn(Arc::clone(&authenticator).follow_keys(source, Duration::from_hours(1)));
    let read = |result: &str| {
        let line = format!("auth_keys_read_total{{result=\"{result}\"}} ");
        let text = metrics.encode();
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0_u64)
    };
    until("a look at a file that is not there", || read("failed") > 0).await;
    std::fs::write(folder.path().join("jwks.json"), cluster.jwks()).unwrap();
    let web = Ok("serviceAccount:shop/web".to_owned());
    until("the keys", || asks(&authenticator, Some(&good)) == web).await;

    std::fs::write(folder.path().join("jwks.json"), "broken").unwrap();
    let failed = read("failed");
    assert_eq!(asks(&authenticator, Some(&unknown)), Err(Code::Unauthenticated));
    until("another look", || read("failed") > failed).await;
    assert_eq!(asks(&authenticator, Some(&good)), web, "the last good keys");
    assert_eq!(asks(&authenticator, Some(&good.replace("Bearer", "bearer"))), web);
    for wrong in [None, Some("Basic YTpi"), Some("Bearer"), Some("")] {
        assert_eq!(asks(&authenticator, wrong), Err(Code::Unauthenticated), "{wrong:?}");
    }
    assert!(metrics.encode().contains("auth_refused_total{reason=\"unknown_key\"} 1"));
}

/// An API server that publishes this.
fn api_server(jwks: String) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        assert_eq!(request.uri().path(), "/openid/v1/jwks");
        let body = http_body_util::Full::new(bytes::Bytes::from(jwks.clone()));
        async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
    });
    kube::Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn without_a_way_to_the_api_server_at_start_it_is_looked_for_until_it_is_found() {
    use std::sync::atomic::AtomicUsize;
    const WITHOUT: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let (authenticator, _, _) = authenticator(folder.path());
    let cluster = Cluster::new();
    let good = format!("Bearer {}", cluster.good("web", unix_now()));
    let (looks, jwks) = (Arc::new(AtomicUsize::new(0)), cluster.jwks());
    let counted = Arc::clone(&looks);
    let source = Source::ApiServer(Box::new(move || {
        let found = counted.fetch_add(1, Ordering::Relaxed) >= WITHOUT;
        let client = found.then(|| api_server(jwks.clone()));
        Box::pin(async move { client.ok_or_else(|| "no way is known".to_owned()) })
    }));
    let start = Instant::now();
    tokio::spawn(Arc::clone(&authenticator).follow_keys(source, Duration::from_hours(1)));
    until("a few looks", || looks.load(Ordering::Relaxed) > 1).await;
    assert_eq!(asks(&authenticator, Some(&good)), Err(Code::RetryLater), "no keys yet");
    let web = Ok("serviceAccount:shop/web".to_owned());
    until("the keys", || asks(&authenticator, Some(&good)) == web).await;
    assert_eq!(looks.load(Ordering::Relaxed), WITHOUT + 1);
    // By 1, 2, 4, 8, 16 s, a fifth more or less: the virtual clock says that it backs off.
    let took = start.elapsed();
    assert!(Duration::from_secs(24) < took && took < Duration::from_mins(1), "{took:?}");
}
