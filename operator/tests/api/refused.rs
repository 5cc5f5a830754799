//! `kubectl apply` of a pool that breaks a rule: refused, with the message that says how to fix it.

use std::fs;

use super::fixture::{apply, documents, install_definitions, namespace, repository};
use super::server::Server;

#[tokio::test]
async fn every_refused_example_is_refused_with_its_message() {
    let server = Server::start().await;
    let client = server.admin();
    install_definitions(&client).await;
    namespace(&client, "refused").await;
    let mut examples = 0;
    for entry in fs::read_dir(repository().join("crds/examples/refused")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let message = text.lines().next().unwrap().strip_prefix("# refused: ").unwrap();
        let mut all = documents(&text);
        for document in &mut all {
            document["metadata"]["namespace"] = "refused".into();
        }
        let last = all.pop().unwrap();
        for before in &all {
            apply(&client, before).await.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        match apply(&client, &last).await {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 422, "{}: {status:?}", path.display());
                assert!(status.message.contains(message), "{}: {status:?}", path.display());
            }
            other => panic!("{}: not refused: {other:?}", path.display()),
        }
        examples += 1;
    }
    assert!(examples > 10);
}

#[tokio::test]
async fn the_quick_start_is_accepted() {
    let server = Server::start().await;
    let client = server.admin();
    install_definitions(&client).await;
    let text = fs::read_to_string(repository().join("crds/examples/quickstart.yaml")).unwrap();
    for document in documents(&text) {
        apply(&client, &document).await.unwrap_or_else(|e| panic!("{}: {e}", document["kind"]));
    }
}
