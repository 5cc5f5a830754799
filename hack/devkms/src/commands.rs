//! One function a subcommand.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use devkms::keys::Key;
use devkms::policy::{Measured, attested_use};
use devkms::{
    BREAK_GLASS_ROLE, Credential, DATAPLANE_ROLE, FaultMode, HOST, Pki, REGION, Server, Store,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sigil_verifier::TrustRoot;
use tokio::signal::unix::{SignalKind, signal};

/// The attestation root in a folder.
const ATTESTATION_ROOT_FILE: &str = "attestation-root.der";
/// All credentials, as an AWS credentials file.
const CREDENTIALS_FILE: &str = "credentials";
/// Those of the data plane, for scripts.
const CREDENTIALS_JSON_FILE: &str = "credentials.json";

pub(crate) fn init(dir: &Path, attestation_root: Option<&Path>) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let key = Key::generate()?;
    let arn = key.arn.clone();
    Store::create(dir, vec![key])?;
    let tls = Pki::generate()?.save(dir)?;
    let profiles = Credential::known().map(|credential| credential.to_profile()).join("\n");
    let [dataplane, ..] = Credential::known();
    let json = serde_json::to_string_pretty(&dataplane)?;
    fs::write(dir.join(CREDENTIALS_JSON_FILE), format!("{json}\n"))?;
    let credentials = format!("# Published test values, of no use anywhere else.\n{profiles}");
    fs::write(dir.join(CREDENTIALS_FILE), credentials)?;
    if let Some(file) = attestation_root {
        let root = read_root(file)?;
        fs::write(dir.join(ATTESTATION_ROOT_FILE), root.der())?;
    }
    let here = dir.display();
    println!("wrote {here}/state.json (0600): the key and who may sign requests");
    for file in tls {
        println!("wrote {here}/{file}");
    }
    println!("wrote {here}/{CREDENTIALS_JSON_FILE}: credentials of the data plane");
    println!("wrote {here}/{CREDENTIALS_FILE}: AWS profiles default, session, break-glass");
    println!("key: {arn}");
    println!("host: {HOST}, region: {REGION}");
    println!();
    println!("Nobody may use the key yet. Next:");
    println!(" 1. pin this ARN, this host and {here}/tls-root.pem in your enclave's pins");
    println!(" 2. devkms put-policy {here} measurements.json");
    println!(" 3. devkms serve {here} --attestation-root FILE --listen 127.0.0.1:8443");
    println!(" 4. AWS_SHARED_CREDENTIALS_FILE={here}/{CREDENTIALS_FILE} for the data plane");
    Ok(())
}

pub(crate) fn serve(
    dir: &Path,
    listen: SocketAddr,
    attestation_root: Option<&Path>,
    port_file: Option<&Path>,
) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let in_folder = dir.join(ATTESTATION_ROOT_FILE);
    let root = match attestation_root {
        Some(file) => read_root(file)?,
        None if in_folder.exists() => read_root(&in_folder)?,
        None => bail!("no attestation root: give --attestation-root FILE to serve or to init"),
    };
    let store = Arc::new(Store::open(dir)?);
    let pki = Pki::open(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut term, mut int) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let socket = std::net::TcpListener::bind(listen);
        let socket = socket.with_context(|| format!("cannot listen on {listen}"))?;
        let server = Server::bind(socket, &pki, store, root)?;
        let address = server.address()?;
        if let Some(file) = port_file {
            let new = file.with_extension("new");
            fs::write(&new, format!("{}\n", address.port()))?;
            fs::rename(&new, file)?;
        }
        println!("listening on {address}");
        tokio::select! {
            () = server.run() => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok(())
    })
}

pub(crate) fn put_policy(dir: &Path, files: &[PathBuf], role: Option<&str>) -> Result<()> {
    let mut images = Vec::new();
    for file in files {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let image: Measured = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no measurements.json", file.display()))?;
        images.push(image);
    }
    let store = Store::open(dir)?;
    let Some(mut key) = store.keys().into_iter().next() else { bail!("the folder has no key") };
    let policy = attested_use(&images, role, &key.arn, DATAPLANE_ROLE, BREAK_GLASS_ROLE)?;
    println!("{}", policy.to_json());
    key.policy = policy;
    store.put_key(key)?;
    Ok(())
}

pub(crate) fn fault(dir: &Path, mode: FaultMode) -> Result<()> {
    Store::open(dir)?.set_fault(mode)?;
    println!("fault: {mode}");
    Ok(())
}

pub(crate) fn stats(dir: &Path) -> Result<()> {
    let counters = Store::open(dir)?.counters();
    let stats = serde_json::json!({ "total": counters.total(), "requests": counters });
    println!("{}", serde_json::to_string_pretty(&stats)?);
    Ok(())
}

fn read_root(file: &Path) -> Result<TrustRoot> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let der = match CertificateDer::from_pem_slice(&bytes) {
        Ok(certificate) => certificate.to_vec(),
        Err(_) => bytes,
    };
    TrustRoot::from_der(der).with_context(|| format!("{}", file.display()))
}
