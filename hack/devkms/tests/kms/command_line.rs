//! The binary, as the demo uses it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use devkms::Credential;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_image_authoring::measure;

use crate::support::{call, measurements};

/// Ends the server with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Success, standard output and standard error.
fn devkms(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_devkms")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn serve(folder: &str) -> (Server, SocketAddr) {
    let port_file = format!("{folder}/port");
    let mut child = Command::new(env!("CARGO_BIN_EXE_devkms"))
        .args(["serve", folder, "--port-file", &port_file])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = Server(child);
    let addr: SocketAddr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
    assert_eq!(fs::read_to_string(port_file).unwrap().trim(), addr.port().to_string());
    (server, addr)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn init_serve_put_policy_fault_and_stats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms");
    let dir = path.to_str().unwrap();
    let root = folder.path().join("root.der");
    fs::write(&root, test_root_der()).unwrap();
    let (good, said, _) = devkms(&["init", dir, "--attestation-root", root.to_str().unwrap()]);
    assert!(good && said.contains("put-policy"), "{said}");
    for secret in ["state.json", "tls.key.pem", "tls-root.key.pem"] {
        assert_eq!(mode(&path.join(secret)), 0o600, "{secret}");
    }
    let state: Value = serde_json::from_slice(&fs::read(path.join("state.json")).unwrap()).unwrap();
    let arn = state["keys"][0]["keyArn"].as_str().unwrap().to_owned();
    assert!(said.contains(&arn));
    let (good, _, error) = devkms(&["init", dir]);
    assert!(!good && error.contains("exists already"), "{error}");

    let (server, addr) = serve(dir);
    let tls_root = CertificateDer::from_pem_file(path.join("tls-root.pem")).unwrap();
    let [_, _, admin] = Credential::known();
    let get = json!({ "KeyId": arn }).to_string();
    let policy = async || {
        let (_, answer) = call(addr, &tls_root, &admin, "GetKeyPolicy", get.as_bytes()).await;
        answer["Policy"].as_str().map_or_else(|| answer["__type"].to_string(), str::to_owned)
    };
    assert!(!policy().await.contains("kms:Decrypt"), "nobody may use a new key");
    let file = folder.path().join("measurements.json");
    let pcrs = measure::process(b"executable", b"pins");
    fs::write(&file, measurements(&pcrs, &arn).to_string()).unwrap();
    let (good, said, error) = devkms(&["put-policy", dir, file.to_str().unwrap()]);
    assert!(good, "{error}");
    let rendered: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&policy().await).unwrap(), rendered);
    assert!(said.contains(&const_hex::encode(pcrs.pcr0)));

    assert!(devkms(&["fault", dir, "throttle"]).0);
    assert_eq!(policy().await, "\"ThrottlingException\"");
    assert!(devkms(&["fault", dir, "off"]).0);
    assert!(policy().await.contains("kms:Decrypt"));
    let (good, _, error) = devkms(&["fault", dir, "lie"]);
    assert!(!good && error.contains("plaintext-leak"), "{error}");

    drop(server);
    let (_server, addr) = serve(dir);
    let (status, _) = call(addr, &tls_root, &admin, "DescribeKey", get.as_bytes()).await;
    assert_eq!(status, 200, "key and certificates outlive the server");
    let stats: Value = serde_json::from_str(&devkms(&["stats", dir]).1).unwrap();
    let expected = json!({
        "requests": {
            "DescribeKey": { "ok": 1 },
            "GetKeyPolicy": { "ThrottlingException": 1, "ok": 3 },
        },
        "total": 5,
    });
    assert_eq!(stats, expected, "counters outlive the server too");
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("kms");
    let dir = dir.to_str().unwrap();
    let (good, _, error) = devkms(&["stats", dir]);
    assert!(!good && error.contains("devkms init"), "{error}");
    assert!(devkms(&["init", dir]).0);
    let (good, _, error) = devkms(&["serve", dir]);
    assert!(!good && error.contains("--attestation-root"), "{error}");
    let file = folder.path().join("m.json");
    let file = file.to_str().unwrap();
    let pcrs = measure::process(b"executable", b"pins");
    fs::write(file, measurements(&pcrs, "arn:other").to_string()).unwrap();
    let (good, _, error) = devkms(&["put-policy", dir, file]);
    assert!(!good && error.contains("arn:other"), "{error}");
    fs::write(file, "{}").unwrap();
    let (good, _, error) = devkms(&["put-policy", dir, file]);
    assert!(!good && error.contains("m.json") && error.contains("formatVersion"), "{error}");
}
