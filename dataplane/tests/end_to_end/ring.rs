//! Several dataplanes, each with its own enclave, store and KMS, and a ring between them in a file. A key
//! that was made where the ring places it is in one store only, so a request that went anywhere else would
//! be answered KEY_NOT_FOUND.

use std::fmt::Write;

use serde_json::{Value, json};
use sigil_dataplane::router::ring::{Ring, Share, position};
use sigil_enclave_client::KeyId;

use crate::support::{Bench, Settings, eventually};

/// Virtual nodes: enough that each of three members owns some of forty keys.
const VIRTUAL_NODES: u32 = 256;

/// Members of one pool, by slot.
struct Pool(Vec<Bench>);

/// A member of a ring: slot, state, weight.
type Member = (usize, &'static str, u32);

impl Pool {
    /// Dataplanes that follow `ring.yaml` in their folders; each may have another.
    async fn start(count: usize, policy: &str) -> Self {
        let mut members = Vec::new();
        for slot in 0..count {
            let mut bench = Bench::without_dataplane(&Settings::default());
            let file = bench.path("ring.yaml");
            let [slot, nodes] = [slot.to_string(), VIRTUAL_NODES.to_string()];
            let environment = [
                ("SIGIL_ROUTING_POLICY", policy),
                ("SIGIL_ROUTING_SLOT", &slot),
                ("SIGIL_ROUTING_VIRTUAL_NODES", &nodes),
                ("SIGIL_ROUTING_MEMBERSHIP_FILE", file.to_str().unwrap()),
                // The machine of a test may be slow; members are not at fault for that.
                ("SIGIL_ROUTING_HOP_TIMEOUT_MS", "30000"),
            ];
            bench.start_dataplane(&environment).await;
            members.push(bench);
        }
        Self(members)
    }

    fn ring(&self, epoch: u32, members: &[Member]) -> String {
        let mut text = format!(
            "apiVersion: sigil.dev/v1alpha1\nkind: SignerRing\nmetadata: {{name: demo}}\n\
             spec:\n  pool: demo\n  epoch: {epoch}\n  members:{}\n",
            if members.is_empty() { " []" } else { "" }
        );
        for (slot, state, weight) in members {
            let socket = self.0[*slot].path("public.sock");
            writeln!(
                text,
                "  - {{slot: {slot}, node: node-{slot}, address: 'unix:{}', state: {state}, \
                 weight: {weight}}}",
                socket.display()
            )
            .unwrap();
        }
        text
    }

    /// Gives `at` a ring; it is replaced as a whole, as a ConfigMap is.
    fn give(&self, at: usize, text: &str) {
        let (file, new) = (self.0[at].path("ring.yaml"), self.0[at].path("ring.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn serves(&self, at: usize, epoch: u32) {
        eventually(&format!("member {at} serves epoch {epoch}"), async || {
            (self.0[at].status().await["ringEpoch"] == epoch).then_some(())
        })
        .await;
    }

    /// Gives everybody this ring and waits until it is served.
    async fn give_all(&self, epoch: u32, members: &[Member]) {
        let text = self.ring(epoch, members);
        (0..self.0.len()).for_each(|at| self.give(at, &text));
        for at in 0..self.0.len() {
            self.serves(at, epoch).await;
        }
    }

    /// Waits until everybody is unlocked and has a connection to everybody else.
    async fn is_ready(&self) {
        for (at, bench) in self.0.iter().enumerate() {
            eventually(&format!("member {at} is connected"), async || {
                (bench.logged("connected to a member").len() + 1 >= self.0.len()).then_some(())
            })
            .await;
            bench.every_keyspace_tested().await;
        }
    }

    async fn sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for bench in &self.0 {
            sum += bench.metric(metric).await;
        }
        sum
    }
}

fn active(count: usize) -> Vec<Member> {
    (0..count).map(|slot| (slot, "Active", 100)).collect()
}

fn owner(members: &[u16], key_id: &str) -> usize {
    let shares: Vec<_> = members.iter().map(|slot| Share::whole(*slot, 100)).collect();
    let KeyId(id) = key_id.parse().unwrap();
    Ring::new(&shares, VIRTUAL_NODES).owner(position(&id)).unwrap().into()
}

fn id(key: &Value) -> &str {
    key["keyId"].as_str().unwrap()
}

/// Row S9a: with a ring that everybody shares, every request is answered by its owner, whoever was asked.
#[tokio::test]
async fn every_key_is_made_and_used_at_its_owner_whoever_is_asked() {
    const KEYS: u32 = 40;
    let pool = Pool::start(3, "Owner").await;
    pool.give_all(1, &active(3)).await;
    pool.is_ready().await;
    let mut keys = Vec::new();
    for n in 0..KEYS as usize {
        keys.push(pool.0[n % 3].create(&json!({ "idempotencyKey": format!("key-{n}") })).await);
    }
    for at in 0..3 {
        let mut stored: Vec<_> =
            pool.0[at].listed().await.iter().map(|key| id(key).to_owned()).collect();
        let mut owned: Vec<_> = keys
            .iter()
            .map(|key| id(key).to_owned())
            .filter(|key| owner(&[0, 1, 2], key) == at)
            .collect();
        stored.sort();
        owned.sort();
        assert!(!owned.is_empty());
        assert_eq!(stored, owned, "member {at}");
    }
    let before = pool.sum("sticky_route_total").await;
    for (n, key) in keys.iter().enumerate() {
        let signatures = [
            pool.0[n % 3].sign(id(key), [7; 32]).await,
            pool.0[(n + 1) % 3].sign(id(key), [7; 32]).await,
        ];
        assert_eq!(signatures[0], signatures[1]);
        assert_eq!(signatures[0]["publicKey"], key["publicKey"]);
        pool.0[(n + 2) % 3].assert_signs(key).await;
    }
    let sticky = pool.sum("sticky_route_total").await - before;
    let cross = pool.sum("cross_enclave_route_total").await;
    assert!(sticky >= 3.0 * f64::from(KEYS), "{sticky}");
    assert!(sticky / (sticky + cross) > 0.95, "{sticky} at the owner, {cross} elsewhere");
    assert!(pool.sum("hop_total").await >= 2.0 * f64::from(KEYS));
    assert_eq!(pool.sum("hop_other_epoch_total").await.to_string(), "0");
    // A batch is as good: its items go where they belong, and each has its answer.
    let requests: Vec<_> = keys
        .iter()
        .map(|key| json!({ "keyId": id(key), "digest": "07".repeat(32), "der": true }))
        .collect();
    let body = json!({ "requests": requests });
    let answer = pool.0[0].post("/sign/batch", &body).await.unwrap().json();
    for (result, key) in answer["results"].as_array().unwrap().iter().zip(&keys) {
        assert_eq!(result["signed"]["publicKey"], key["publicKey"], "{result}");
    }
    // What the owner refuses, the caller hears in its words.
    let unknown = json!({ "keyId": "k1aaaaaaaaaaaaaaaaaaaaaaaaaa", "digest": "07".repeat(32) });
    for bench in &pool.0 {
        let answer = bench.post("/sign", &unknown).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text("code").as_str()), (404, "KEY_NOT_FOUND"));
    }
}

/// Two members whose rings name each other: what comes by a hop goes no further.
#[tokio::test]
async fn a_request_that_came_by_a_hop_is_never_sent_on() {
    let pool = Pool::start(2, "Owner").await;
    pool.give(0, &pool.ring(5, &[(0, "Draining", 100), (1, "Active", 100)]));
    pool.give(1, &pool.ring(6, &[(0, "Active", 100), (1, "Draining", 100)]));
    pool.serves(0, 5).await;
    pool.serves(1, 6).await;
    pool.is_ready().await;
    let key = pool.0[0].create(&json!({})).await;
    assert_eq!(pool.0[1].listed().await.len(), 1, "made where member 0 believes it belongs");
    for _ in 0..20 {
        pool.0[0].assert_signs(&key).await;
    }
    assert!(pool.0[1].metric("hop_received_total").await >= 21.0);
    assert!(pool.0[1].metric("hop_other_epoch_total").await >= 21.0);
    assert_eq!(pool.0[1].metric("hop_total").await.to_string(), "0");
    assert_eq!(pool.0[0].metric("hop_received_total").await.to_string(), "0");
    // Without an enclave the receiver says so, and sends nothing on either.
    pool.0[1].launcher.kill_child();
    let body = json!({ "keyId": id(&key), "digest": "07".repeat(32) });
    let answer = pool.0[0].post("/sign", &body).await.unwrap();
    if answer.status != 200 {
        assert!(
            answer.json()["retryAfterMs"].is_number() || answer.text("code") == "KEY_NOT_FOUND"
        );
    }
    assert_eq!(pool.0[1].metric("hop_total").await.to_string(), "0");
}

/// A member that comes and goes changes nothing for the keys of others.
#[tokio::test]
async fn a_flapping_member_costs_the_keys_of_others_nothing() {
    let pool = Pool::start(2, "Owner").await;
    // Slot 1 is there throughout; slot 0 asks. A third that nobody can reach flaps.
    pool.give_all(1, &active(2)).await;
    pool.is_ready().await;
    let mut keys = Vec::new();
    for _ in 0..12 {
        keys.push(pool.0[0].create(&json!({})).await);
    }
    let calm: Vec<_> = keys.iter().filter(|key| owner(&[0, 1, 2], id(key)) != 2).collect();
    assert!(calm.len() >= 4);
    let gone = "  - {slot: 2, node: gone, state: Active, weight: 100}\n";
    for epoch in 2..8_u32 {
        let text = pool.ring(epoch, &active(2)) + if epoch % 2 == 0 { gone } else { "" };
        (0..2).for_each(|at| pool.give(at, &text));
        pool.serves(0, epoch).await;
        for key in &calm {
            let body = json!({ "keyId": id(key), "digest": "07".repeat(32) });
            let answer = pool.0[0].post("/sign", &body).await.unwrap();
            assert_eq!(answer.status, 200, "epoch {epoch}: {}", answer.json());
        }
    }
}

#[tokio::test]
async fn an_older_ring_is_refused_and_a_broken_one_changes_nothing() {
    let pool = Pool::start(1, "LocalFirst").await;
    let key = pool.0[0].create(&json!({})).await;
    pool.give_all(3, &active(1)).await;
    let refusals: [(String, &str); 3] = [
        (pool.ring(2, &active(1)), "older ring refused"),
        (pool.ring(3, &[]), "another ring of the same epoch refused"),
        (
            pool.ring(9, &active(1)).replace("weight: 100", "weight: 100000"),
            "membership file refused; the last good one is kept",
        ),
    ];
    for (text, message) in refusals {
        pool.give(0, &text);
        eventually(message, async || (!pool.0[0].logged(message).is_empty()).then_some(())).await;
        pool.0[0].assert_signs(&key).await;
        assert_eq!(pool.0[0].status().await["ringEpoch"], 3);
    }
    pool.give_all(4, &active(1)).await;
    assert_eq!(pool.0[0].metric("ring_epoch").await.to_string(), "4");
    pool.0[0].assert_signs(&key).await;
}

/// A process that is nobody's member takes no hop.
#[tokio::test]
async fn who_is_no_member_takes_no_request_of_others() {
    let alone = Bench::start().await;
    let pool = Pool::start(1, "Owner").await;
    let socket = alone.path("public.sock");
    let other = format!(
        "  - {{slot: 1, node: alone, address: 'unix:{}', state: Active, weight: 100}}\n",
        socket.display()
    );
    pool.give(0, &(pool.ring(1, &active(1)) + &other));
    pool.serves(0, 1).await;
    let why = "only members of this pool may send requests of others";
    eventually("it is refused", async || {
        let lines = pool.0[0].logged("no connection to a member; it is tried again");
        lines.iter().any(|line| line["why"].as_str().unwrap().starts_with(why)).then_some(())
    })
    .await;
    // What belongs to it is answered here: nobody else may be asked.
    for _ in 0..4 {
        let key = pool.0[0].create(&json!({})).await;
        pool.0[0].assert_signs(&key).await;
    }
    assert_eq!(alone.metric("hop_received_total").await.to_string(), "0");
}

/// Members that reach each other by TCP: each shows its certificate, and only a member's gets in.
mod over_tls {
    use std::net::SocketAddr;

    use super::*;
    use crate::support::tls::Authority;

    async fn start(authority: &Authority, slot: &str, subjects: &str) -> Bench {
        let mut bench = Bench::without_dataplane(&Settings::default());
        let identity = authority.server();
        for (name, text) in [
            ("tls.crt", &identity.certificate),
            ("tls.key", &identity.key),
            ("ca.pem", &authority.pem),
        ] {
            std::fs::write(bench.path(name), text).unwrap();
        }
        let path = |name: &str| bench.path(name).display().to_string();
        let [certificate, key, ca, ring] = ["tls.crt", "tls.key", "ca.pem", "ring.yaml"].map(path);
        bench
            .start_dataplane(&[
                ("SIGIL_LISTENERS_PUBLIC", "127.0.0.1:0"),
                ("SIGIL_LISTENERS_TLS_CERTIFICATE_FILE", &certificate),
                ("SIGIL_LISTENERS_TLS_KEY_FILE", &key),
                ("SIGIL_LISTENERS_TLS_CLIENT_CA_FILE", &ca),
                ("SIGIL_LISTENERS_TLS_CLIENT_CERTIFICATES", "required"),
                ("SIGIL_ROUTING_POLICY", "Owner"),
                ("SIGIL_ROUTING_SLOT", slot),
                ("SIGIL_ROUTING_MEMBERSHIP_FILE", &ring),
                ("SIGIL_ROUTING_HOP_TIMEOUT_MS", "30000"),
                ("SIGIL_ROUTING_PEER_CA_FILE", &ca),
                ("SIGIL_ROUTING_PEER_NAME", "localhost"),
                ("SIGIL_ROUTING_PEER_SUBJECTS", subjects),
            ])
            .await;
        bench
    }

    fn address(bench: &Bench) -> SocketAddr {
        bench.logged("listening")[0]["public"].as_str().unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn only_a_certificate_of_a_member_lets_requests_of_others_in() {
        let authority = Authority::new();
        let ours = start(&authority, "0", "[]").await;
        let member = start(&authority, "1", "['dns:localhost']").await;
        let stranger = start(&authority, "2", "['dns:somebody.else']").await;
        let mut text = "apiVersion: sigil.dev/v1alpha1\nkind: SignerRing\nspec:\n  pool: demo\n  \
                        epoch: 1\n  members:\n"
            .to_owned();
        for (slot, bench) in [(1, &member), (2, &stranger)] {
            let address = address(bench);
            writeln!(
                text,
                "  - {{slot: {slot}, node: n{slot}, address: '{address}', state: Active, weight: 1}}"
            )
            .unwrap();
        }
        std::fs::write(ours.path("ring.yaml"), text).unwrap();
        eventually("a member lets us in", async || {
            let lines = ours.logged("connected to a member");
            lines.iter().any(|line| line["slot"] == 1).then_some(())
        })
        .await;
        let why = "only members of this pool may send requests of others";
        eventually("who does not know us does not", async || {
            let lines = ours.logged("no connection to a member; it is tried again");
            let refused = |line: &&Value| line["why"].as_str().unwrap().starts_with(why);
            lines.iter().filter(refused).any(|line| line["slot"] == 2).then_some(())
        })
        .await;
        assert!(ours.logged("connected to a member").iter().all(|line| line["slot"] == 1));
    }
}
