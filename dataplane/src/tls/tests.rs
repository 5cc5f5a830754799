use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::{Instant, advance};
use tokio_rustls::TlsConnector;

pub(crate) use self::authority::{Authority, Identity};
use super::*;
use crate::metrics::Metrics;
use crate::status::StatusWriter;

mod authority;

/// Files of a listener in a folder of their own.
pub(crate) struct Folder {
    folder: TempDir,
    pub(crate) files: Files,
}

impl Folder {
    /// A server of `authority`; with authorities of clients, and whether all must have a certificate.
    pub(crate) fn new(authority: &Authority, clients: Option<(&Authority, bool)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let clients = clients.map(|(clients, required)| {
            std::fs::write(path("clients.pem"), &clients.pem).unwrap();
            (path("clients.pem"), required)
        });
        let files = Files { certificate: path("tls.crt"), key: path("tls.key"), clients };
        let this = Self { folder, files };
        this.put(&authority.server());
        this
    }

    /// Replaces certificate and key, one after the other, as `rename` does.
    pub(crate) fn put(&self, identity: &Identity) {
        self.put_file("tls.crt", &identity.certificate);
        self.put_file("tls.key", &identity.key);
    }

    pub(crate) fn put_file(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, self.folder.path().join(name)).unwrap();
    }
}

impl Authority {
    /// Of a client that has no name.
    pub(crate) fn nameless(&self) -> Identity {
        self.issue(|params| assert!(params.distinguished_name.remove(rcgen::DnType::CommonName)))
    }
}

impl Tls {
    /// Takes the files as they are now into use.
    pub(crate) fn reload(&self) {
        self.current.store(Arc::new(self.files.load(&self.files.read().unwrap()).unwrap()));
    }
}

/// Client and server say a byte each; gives the certificate that the server has shown.
async fn meet(tls: &Tls, connector: &TlsConnector) -> Result<Vec<u8>, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = tls.accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"s").await.map_err(|error| error.to_string())
    };
    let client = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream: tokio_rustls::client::TlsStream<DuplexStream> =
            connector.connect(name, near).await.map_err(|error| error.to_string())?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        Ok(session.peer_certificates().unwrap()[0].to_vec())
    };
    let (served, shown) = tokio::join!(server, client);
    served.and(shown)
}

#[tokio::test]
async fn only_clients_of_the_named_authority_come_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let gone = Folder::new(&ours, None).files.clone();
    assert!(matches!(Tls::load(gone), Err(TlsError::Read { .. })), "the folder is gone");
    let folder = Folder::new(&ours, None);
    let open = Tls::load(folder.files.clone()).unwrap();
    meet(&open, &ours.connector(None, "h2")).await.unwrap();
    meet(&open, &ours.connector(None, "http/1.1")).await.unwrap();
    meet(&open, &theirs.connector(None, "h2")).await.unwrap_err();
    meet(&open, &ours.connector(None, "h3")).await.unwrap_err();

    let (known, stranger) = (theirs.client("spiffe://a/b"), ours.client("spiffe://a/b"));
    for required in [true, false] {
        let folder = Folder::new(&ours, Some((&theirs, required)));
        let tls = Tls::load(folder.files.clone()).unwrap();
        let meets =
            async |identity: Option<&Identity>| meet(&tls, &ours.connector(identity, "h2")).await;
        meets(Some(&known)).await.unwrap();
        meets(Some(&stranger)).await.unwrap_err();
        assert_eq!(meets(None).await.is_err(), required);
        let chain = |identity: &Identity| vec![CertificateDer::from(identity.der())];
        assert!(tls.admits(&chain(&known)) && !tls.admits(&chain(&stranger)));
        assert!(!tls.admits(&chain(&theirs.expired_server())));
        assert_eq!(tls.admits(&[]), !required);
    }
}

#[test]
fn files_that_no_listener_can_be_made_of_are_named() {
    let authority = Authority::new();
    let (first, second) = (authority.server(), authority.server());
    let with = |certificate: &str, key: &str| Identity {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    let cases = [
        (with(&first.certificate, &second.key), "certificate and key"),
        (with("", &first.key), "tls.crt: holds no certificate"),
        (with(&first.certificate, ""), "tls.key"),
        (with(&first.certificate.replace("MII", "MI!"), &first.key), "tls.crt"),
        (with(&first.certificate, &first.certificate), "tls.key"),
        (with(&" ".repeat(2 << 20), &first.key), "tls.crt: longer"),
    ];
    let error_of = |folder: &Folder| {
        let loaded = folder.files.read().and_then(|contents| folder.files.load(&contents));
        loaded.err().unwrap().to_string()
    };
    for (identity, said) in cases {
        let folder = Folder::new(&authority, Some((&authority, true)));
        folder.put(&identity);
        let error = error_of(&folder);
        assert!(error.contains(said), "{said}: {error}");
        assert!(!error.contains("PRIVATE"), "{error}");
    }
    let folder = Folder::new(&authority, Some((&authority, true)));
    folder.put_file("clients.pem", "");
    let error = error_of(&folder);
    assert!(error.contains("clients.pem: holds no certificate"), "{error}");
}

/// A listener whose files are followed. The clock is paused, so looks take no time.
struct Followed {
    tls: Arc<Tls>,
    client: TlsConnector,
    metrics: Arc<Metrics>,
    status: StatusWriter,
    _stop: watch::Sender<bool>,
}

impl Followed {
    fn start(authority: &Authority, files: Files) -> Self {
        let tls = Arc::new(Tls::load(files).unwrap());
        let (metrics, stop) = (Arc::new(Metrics::new()), watch::Sender::new(false));
        let status = StatusWriter::new(&[]);
        let following =
            Arc::clone(&tls).follow(Arc::clone(&metrics), status.clone(), stop.subscribe());
        tokio::spawn(following);
        let client = authority.connector(None, "h2");
        Self { tls, client, metrics, status, _stop: stop }
    }

    fn count(&self, result: &str) -> u64 {
        let line = format!(r#"tls_reload_total{{result="{result}"}} "#);
        let text = self.metrics.encode();
        let found = text.lines().find_map(|found| found.strip_prefix(&line));
        found.map_or(0, |count| count.parse().unwrap())
    }

    /// Lets looks pass until `is` holds.
    async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + std::time::Duration::from_mins(10);
        while !is().await {
            assert!(Instant::now() < deadline, "not in time: {what}");
            advance(std::time::Duration::from_millis(250)).await;
            // Files are read on other threads.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
    }

    async fn until_shown(&self, expected: &Identity) {
        let shows = async || meet(&self.tls, &self.client).await == Ok(expected.der());
        self.until("exchanged", shows).await;
    }
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_used_and_broken_ones_are_not() {
    let authority = Authority::new();
    let folder = Folder::new(&authority, None);
    let (second, third) = (authority.server(), authority.server());
    let followed = Followed::start(&authority, folder.files.clone());
    let error = || followed.status.snapshot().tls.unwrap_or_default().reload_error;
    folder.put(&second);
    followed.until_shown(&second).await;

    folder.put_file("tls.key", "none");
    followed.until("the broken key is said", async || followed.count("failed") == 1).await;
    assert!(error().unwrap().contains("tls.key"), "{:?}", error());
    assert_eq!(meet(&followed.tls, &followed.client).await.unwrap(), second.der());
    folder.put(&second);
    followed.until("the old files are back", async || error().is_none()).await;
    std::fs::remove_file(&folder.files.certificate).unwrap();
    followed.until("the missing file is said", async || followed.count("failed") == 2).await;
    folder.put(&third);
    followed.until_shown(&third).await;
    followed.until("all is well", async || error().is_none()).await;
    assert_eq!(followed.count("failed"), 2, "said once each");
    let status = followed.status.snapshot().tls.unwrap();
    assert_eq!(status.certificate_sha256, const_hex::encode(sha256(&third.der())));
}

/// The volume of a Kubernetes Secret: the files are links into `..data`, which is itself a link and the
/// only thing that is exchanged.
#[tokio::test(start_paused = true)]
async fn a_directory_that_kubernetes_swaps_by_its_link_is_seen() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let put = |version: &str, identity: &Identity| {
        std::fs::create_dir(path(version)).unwrap();
        std::fs::write(path(version).join("tls.crt"), &identity.certificate).unwrap();
        std::fs::write(path(version).join("tls.key"), &identity.key).unwrap();
        std::os::unix::fs::symlink(version, path("..data_tmp")).unwrap();
        std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
    };
    put("..1", &authority.server());
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), path(name)).unwrap();
    }
    let files = Files { certificate: path("tls.crt"), key: path("tls.key"), clients: None };
    let followed = Followed::start(&authority, files);
    // As often as the kubelet never would.
    for version in ["..2", "..3", "..4", "..5"] {
        let next = authority.server();
        put(version, &next);
        followed.until_shown(&next).await;
    }
    assert_eq!((followed.count("ok"), followed.count("failed")), (4, 0));
}

/// Writers that never rest, as a loop of a controller would: what is shown is always a whole pair.
#[tokio::test(start_paused = true)]
async fn a_storm_of_exchanges_always_leaves_a_certificate_that_works() {
    let authority = Authority::new();
    let folder = Folder::new(&authority, None);
    let followed = Followed::start(&authority, folder.files.clone());
    for round in 0..40 {
        let next = authority.server();
        folder.put_file("tls.crt", &next.certificate);
        if round % 3 != 0 {
            folder.put_file("tls.key", &next.key);
        }
        advance(std::time::Duration::from_millis(700)).await;
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        meet(&followed.tls, &followed.client).await.unwrap();
    }
    let end = authority.server();
    folder.put(&end);
    followed.until_shown(&end).await;
}
