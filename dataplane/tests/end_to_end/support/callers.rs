//! Callers that go on through a fault, and what they saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Bench, eventually};

/// What callers saw, by operation and answer.
pub(crate) type Seen = BTreeMap<(&'static str, String), usize>;

/// One creates keys, one signs with a key that is known.
pub(crate) struct Callers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    acknowledged: Mutex<Vec<Value>>,
}

impl Callers {
    /// Callers of `bench` until they are stopped.
    pub(crate) fn start(bench: &Arc<Bench>, known: &Value) -> Self {
        let shared = Arc::new(Shared::default());
        let sign = json!({ "keyId": known["keyId"], "digest": "11".repeat(32) });
        let tasks = vec![
            tokio::spawn(call(Arc::clone(bench), Arc::clone(&shared), "create", json!({}))),
            tokio::spawn(call(Arc::clone(bench), Arc::clone(&shared), "sign", sign)),
        ];
        Self { shared, tasks }
    }

    fn count(&self, operation: &'static str, answer: &str) -> usize {
        self.shared.seen.lock().unwrap().get(&(operation, answer.to_owned())).copied().unwrap_or(0)
    }

    /// Waits for `more` further answers of this kind.
    pub(crate) async fn until(&self, operation: &'static str, answer: &str, more: usize) {
        let wanted = self.count(operation, answer) + more;
        eventually(&format!("{operation}: {answer}"), async || {
            (self.count(operation, answer) >= wanted).then_some(())
        })
        .await;
    }

    /// What was seen since the last call.
    pub(crate) fn seen(&self) -> Seen {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }

    /// Stops; gives the keys that were acknowledged.
    pub(crate) async fn stop(self) -> Vec<Value> {
        for task in self.tasks {
            task.abort();
            let ended = task.await;
            assert!(ended.is_err_and(|error| error.is_cancelled()), "a caller failed; see above");
        }
        std::mem::take(&mut self.shared.acknowledged.lock().unwrap())
    }
}

async fn call(bench: Arc<Bench>, shared: Arc<Shared>, operation: &'static str, body: Value) {
    loop {
        let answer = bench.post(&format!("/{operation}"), &body).await;
        let seen = match answer {
            Ok(answer) if answer.status == 200 => {
                if operation == "create" {
                    shared.acknowledged.lock().unwrap().push(answer.json());
                }
                "200".to_owned()
            }
            Ok(answer) => {
                let problem = answer.json();
                assert!(problem["retryAfterMs"].is_number(), "{operation}: {problem}");
                answer.text("code")
            }
            Err(error) => error,
        };
        *shared.seen.lock().unwrap().entry((operation, seen)).or_default() += 1;
        tokio::task::yield_now().await;
    }
}
