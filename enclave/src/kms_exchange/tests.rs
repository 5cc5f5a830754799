//! What ends an exchange before there is a TLS connection. Everything after it is tested against a
//! real server: `hack/devkms/tests`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use sigil_enclave_image::pins::KeyspaceRule;

use super::*;
use crate::names::Keyspace;

const ROOT: &[u8] = include_bytes!("../../attestation/src/aws_root_g1.der");

async fn failed(stream: DuplexStream, host: &str) -> ExchangeError {
    let tls = TlsRoots::new(&[ROOT.to_vec()]).unwrap();
    let rule = KeyspaceRule {
        prefix: String::new(),
        key_arns: Vec::new(),
        region: "us-east-1".to_owned(),
        host: host.to_owned(),
    };
    let keyspace = &Keyspace::parse("k").unwrap();
    let asked = AskedDek { rule: &rule, key_arn: "arn", app: "a", keyspace, dek_id: [0; 16] };
    let request = ExactRequest::new(&asked, &Operation::GenerateDataKey, b"");
    let headers = SignatureHeaders::new("20261121T094413Z", "signature", "").unwrap();
    exchange(stream, &tls, 1_795_254_253, &request, &headers).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_costs_two_seconds() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let start = Instant::now();
    assert_eq!(failed(ours, "kms.us-east-1.amazonaws.com").await, ExchangeError::Timeout);
    assert_eq!(start.elapsed().as_secs(), ATTEMPT_TIME_MAX.as_secs());
    drop(theirs);
}

#[tokio::test]
async fn a_peer_without_tls_is_no_kms() {
    for said in [b"".as_slice(), b"HTTP/1.1 200 OK\r\n\r\n", &[0; 512], &[0x16; 64]] {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(failed(ours, "kms.us-east-1.amazonaws.com").await, ExchangeError::Tls);
    }
}

#[tokio::test]
async fn the_first_bytes_offer_tls_1_3_alone_and_name_the_host() {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let talk = tokio::spawn(failed(ours, "kms.us-east-1.amazonaws.com"));
    let mut hello = vec![0; 5];
    theirs.read_exact(&mut hello).await.unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
    theirs.read_exact(&mut rest).await.unwrap();
    drop(theirs);
    let contains = |part: &[u8]| rest.windows(part.len()).any(|window| window == part);
    assert!(contains(b"kms.us-east-1.amazonaws.com"));
    // Extension supported_versions: 43, 3 bytes, a list of 2 bytes with TLS 1.3 alone.
    assert!(contains(&[0, 43, 0, 3, 2, 3, 4]));
    assert!(!contains(&[0, 42, 0, 0]), "early data");
    assert_eq!(talk.await.unwrap(), ExchangeError::Tls);
}

#[tokio::test]
async fn a_name_that_is_no_host_is_refused() {
    let (ours, _theirs) = tokio::io::duplex(64);
    assert_eq!(failed(ours, "not a host").await, ExchangeError::Tls);
}

#[test]
fn roots_must_be_certificates() {
    assert!(TlsRoots::new(&[]).is_none());
    assert!(TlsRoots::new(&[ROOT.to_vec(), vec![0x30, 0]]).is_none());
}
