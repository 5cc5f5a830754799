//! The real thing: `sigil-dataplane serve` as it is shipped, over TCP on loopback, and an enclave
//! process that it attests and unlocks through the test KMS. Audit and metrics are as they are.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::claim;
use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_image::pins::VerifyMode;
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_image_authoring::measurements::Measurements;
use tokio::net::{UnixListener, UnixStream};

use super::{Http, Process, Rest, Signer, Stack};
use crate::child::EXECUTABLE;
use crate::clock;
use crate::enclave::Enclave;
use crate::generator::PublicKey;

/// Keys that take turns.
pub(crate) const KEYS: usize = 64;
/// Time until the keyspace is unlocked. Under valgrind all takes fifty times as long.
const UNLOCK_TIME_MAX: Duration = Duration::from_mins(2);

/// How it is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Signing workers of the enclave, and serving threads of the dataplane.
    pub(crate) workers: usize,
    /// More of the dataplane's settings, as YAML.
    pub(crate) extra: String,
    /// A program with its arguments that runs the dataplane.
    pub(crate) wrapper: Vec<OsString>,
    pub(crate) keys: usize,
}

/// Starts it and makes its keys.
pub(crate) fn start(name: &str, dataplane: &Path, settings: &Settings) -> Result<Stack> {
    ensure!(
        dataplane.is_file(),
        "{} is not there: cargo build --release --package sigil-dataplane",
        dataplane.display()
    );
    let enclave = Enclave::start_with(&[], VerifyMode::BatchSample, settings.workers)?;
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let launcher = launch(&enclave, folder.path())?;
    std::fs::write(folder.path().join("root.der"), test_root_der())?;
    let file = folder.path().join("dataplane.yaml");
    std::fs::write(&file, configuration(&enclave, folder.path(), settings)?)?;
    let credentials = enclave.kms.inner.credentials();
    let mut words = settings.wrapper.iter().cloned().chain([dataplane.as_os_str().to_owned()]);
    let program = words.next().context("no program")?;
    let mut front = Process::start(
        Command::new(program)
            .args(words)
            .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
            .env("HOME", folder.path())
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret)
            .env("AWS_SESSION_TOKEN", &credentials.session_token),
        &folder.path().join("dataplane.log"),
    )?;
    let (public, admin) = front.wait_for(listening)?;
    let keys = (0..settings.keys).map(|_| create(public)).collect::<Result<_>>()?;
    Ok(Stack {
        name: name.to_owned(),
        keys,
        front,
        signer: Signer::Enclave(Box::new(enclave)),
        http: public,
        grpc: public,
        admin: Some(admin),
        _rest: Rest { _launcher: Some(launcher), _folder: folder },
    })
}

/// Claims the enclave and hands it over to everybody who connects, as a launcher does.
fn launch(enclave: &Enclave, folder: &Path) -> Result<tokio::runtime::Runtime> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (socket, listen) = (enclave.socket.clone(), folder.join("handoff.sock"));
    let (handoff, listener) = runtime.block_on(async move {
        let mut stream = UnixStream::connect(&socket).await.context("connect")?;
        let (accepted, token) = claim(&mut stream).await.context("claim")?;
        let address = EnclaveAddress::UnixPath(socket);
        let handoff = Handoff { boot_id: accepted.hello.boot_id, token, address };
        anyhow::Ok((handoff, UnixListener::bind(listen)?))
    })?;
    runtime.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if handoff.write(&mut stream).await.is_ok() {
                open.push(stream);
            }
        }
    });
    Ok(runtime)
}

fn configuration(enclave: &Enclave, folder: &Path, settings: &Settings) -> Result<String> {
    let kms = &enclave.kms.inner;
    let pcrs = Measurements::of_process(EXECUTABLE, &enclave.kms.pins)?;
    let hex = |pcr: &[u8; 48]| const_hex::encode(pcr);
    let measurements = serde_json::json!([
        { "pcr0": hex(&pcrs.pcr0), "pcr1": hex(&pcrs.pcr1), "pcr2": hex(&pcrs.pcr2) }
    ]);
    Ok(format!(
        "listeners: {{public: '127.0.0.1:0', admin: '127.0.0.1:0'}}\n\
         workers: {}\n\
         enclave: {{handoff: '{dir}/handoff.sock', attestationRoot: '{dir}/root.der', \
         measurements: {measurements}}}\n\
         kms: {{region: {}, keyArn: '{}', address: '{}'}}\n\
         store: {{embedded: {{path: '{dir}/store'}}}}\n{}\n",
        settings.workers,
        devkms::REGION,
        kms.key_arn,
        kms.addr,
        settings.extra,
        dir = folder.display(),
    ))
}

/// The addresses in the line that says so.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line[name].as_str()?.parse().ok();
    (line["message"] == "listening").then(|| Some((address("public")?, address("admin")?)))?
}

/// Makes a key, as soon as the keyspace is unlocked.
pub(crate) fn create(public: SocketAddr) -> Result<PublicKey> {
    let deadline = Instant::now() + UNLOCK_TIME_MAX;
    loop {
        let (status, body) = Http::connect(public)?.post("/create", "{}")?;
        let text: serde_json::Value = serde_json::from_str(&body)?;
        if status == 200 {
            let field = |name: &str| text[name].as_str().map(str::to_owned);
            let (id, hex) = (field("keyId"), field("publicKey"));
            return Ok(PublicKey { id: id.context("keyId")?, hex: hex.context("publicKey")? });
        }
        if Instant::now() > deadline {
            bail!("no key was made: {status} {body}");
        }
        clock::sleep(Duration::from_millis(text["retryAfterMs"].as_u64().unwrap_or(100)));
    }
}
