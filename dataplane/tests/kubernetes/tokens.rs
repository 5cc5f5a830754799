//! Tokens that a real API server issues, against the keys that it publishes.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use sigil_dataplane::auth::{Expected, KeySet, TokenError, verify};

use crate::server::Server;
use crate::{NAMESPACE, create, prepare};

const AUDIENCE: &str = "sigil:sigil-quickstart/demo";

async fn issued(admin: &Client, audience: &str, pod: Option<&Pod>) -> String {
    let bound_object_ref = pod.map(|pod| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    });
    let spec = TokenRequestSpec {
        audiences: vec![audience.to_owned()],
        expiration_seconds: Some(600),
        bound_object_ref,
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), NAMESPACE);
    let parameters = PostParams::default();
    let issued = accounts.create_token_request("demo-signer", &parameters, &request);
    issued.await.unwrap().status.unwrap().token
}

#[tokio::test]
async fn a_real_token_of_the_pools_audience_is_taken_and_no_other() {
    let server = Server::start().await;
    // The keys are read with the rights that every service account has.
    let member = prepare(&server).await;
    let admin = server.admin();
    let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).unwrap();
    let keys = KeySet::parse(member.request_text(request).await.unwrap().as_bytes()).unwrap();
    let expected = Expected {
        issuer: "https://kubernetes.default.svc".to_owned(),
        audience: AUDIENCE.to_owned(),
        leeway_s: 30,
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let token = issued(&admin, AUDIENCE, None).await;
    let claims = verify(&token, &keys, &expected, now_s).unwrap();
    assert_eq!(claims.subject(), "serviceAccount:sigil-quickstart/demo-signer");
    assert_eq!((claims.pod, claims.node), (None, None));
    assert!(claims.expires_s > now_s + 500 && claims.expires_s <= now_s + 660);
    assert_eq!(verify(&token, &keys, &expected, now_s + 700), Err(TokenError::Expired));

    let other = issued(&admin, "https://kubernetes.default.svc", None).await;
    assert_eq!(verify(&other, &keys, &expected, now_s), Err(TokenError::Audience));

    let pods = Api::<Pod>::namespaced(admin.clone(), NAMESPACE);
    let pod = json!({"metadata": {"name": "app-0"}, "spec": {"serviceAccountName": "demo-signer",
        "containers": [{"name": "app", "image": "none"}]}});
    create(pods.clone(), &serde_json::from_value(pod).unwrap()).await;
    let pod = pods.get("app-0").await.unwrap();
    let bound = issued(&admin, AUDIENCE, Some(&pod)).await;
    let claims = verify(&bound, &keys, &expected, now_s).unwrap();
    assert_eq!(claims.pod.as_deref(), Some("app-0"));

    // Another cluster's token has the same names and another key.
    let elsewhere = Server::start().await;
    prepare(&elsewhere).await;
    let foreign = issued(&elsewhere.admin(), AUDIENCE, None).await;
    let refused = verify(&foreign, &keys, &expected, now_s).unwrap_err();
    assert!(matches!(refused, TokenError::UnknownKey | TokenError::Signature), "{refused:?}");
}
