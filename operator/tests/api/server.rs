//! A real control plane without controllers: etcd and kube-apiserver on loopback, RBAC and pod
//! security on. It ends with the test process, however that ends: a shell between them waits for
//! the end of its standard input.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::config::{AuthInfo, Config};
use kube::{Client, Error};
use tempfile::TempDir;

/// For a machine that is busy with other builds; an idle one needs three seconds.
const START_DEADLINE: Duration = Duration::from_mins(2);
const ADMIN_TOKEN: &str = "api-test-admin";

/// etcd and an API server.
pub(crate) struct Server {
    url: String,
    /// Holds the standard input whose end ends both.
    _guard: Child,
    folder: TempDir,
}

const SUPERVISOR: &str = r#"
"$BIN/etcd" --data-dir="$DIR/etcd" --unsafe-no-fsync --log-level=error \
  --listen-client-urls="http://127.0.0.1:$ETCD" --advertise-client-urls="http://127.0.0.1:$ETCD" \
  --listen-peer-urls="http://127.0.0.1:$PEER" --initial-advertise-peer-urls="http://127.0.0.1:$PEER" \
  --initial-cluster="default=http://127.0.0.1:$PEER" >"$DIR/etcd.log" 2>&1 &
etcd=$!
"$BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD" \
  --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$PORT" \
  --cert-dir="$DIR/certificates" --token-auth-file="$DIR/tokens.csv" --authorization-mode=RBAC \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file="$DIR/accounts.pub" \
  --service-account-signing-key-file="$DIR/accounts.pem" \
  --service-cluster-ip-range=198.19.0.0/24 --endpoint-reconciler-type=none \
  >"$DIR/kube-apiserver.log" 2>&1 &
api=$!
read -r _
kill -KILL "$api" "$etcd"
"#;

// === impl Server ===

impl Server {
    /// Starts both and waits until the API server is ready.
    pub(crate) async fn start() -> Self {
        let bin = programs();
        let folder = tempfile::tempdir().unwrap();
        let token = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
        fs::write(folder.path().join("tokens.csv"), token).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(folder.path().join("accounts.pem"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("accounts.pub"), key.public_key_pem()).unwrap();
        let [etcd, peer, port] = free_ports();
        let guard = Command::new("sh")
            .args(["-c", SUPERVISOR])
            .env("BIN", &bin)
            .env("DIR", folder.path())
            .env("ETCD", etcd.to_string())
            .env("PEER", peer.to_string())
            .env("PORT", port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let url = format!("https://127.0.0.1:{port}");
        let server = Self { url, _guard: guard, folder };
        server.wait_until_ready().await;
        server
    }

    /// A client with every right.
    pub(crate) fn admin(&self) -> Client {
        self.client(ADMIN_TOKEN)
    }

    /// A client with a token.
    pub(crate) fn client(&self, token: &str) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        // The server made its certificate itself, for this run, on loopback.
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Client::try_from(config).unwrap()
    }

    async fn wait_until_ready(&self) {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            let answer: Result<String, Error> = self.admin().request_text(request).await;
            let log = self.folder.path().join("kube-apiserver.log");
            let log = fs::read_to_string(log).unwrap_or_default();
            let given_up = started.elapsed() > START_DEADLINE || log.contains("command failed");
            match answer {
                Ok(text) if text == "ok" => return,
                answer if given_up => {
                    let tail: Vec<_> = log.lines().rev().take(20).collect();
                    panic!("the API server is not ready: {answer:?}\n{}", tail.join("\n"));
                }
                _ => {}
            }
        }
    }
}

/// The folder with the pinned programs.
pub(crate) fn programs() -> PathBuf {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => built(),
    };
    for program in ["etcd", "kube-apiserver"] {
        assert!(
            folder.join(program).exists(),
            "{program} is not in {}: run hack/tools/build etcd kube-apiserver (some minutes, once), \
             or set KUBEBUILDER_ASSETS",
            folder.display()
        );
    }
    folder
}

fn built() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/tools/path");
    let output = Command::new(&script).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", script.display());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Ports that were free a moment ago.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
