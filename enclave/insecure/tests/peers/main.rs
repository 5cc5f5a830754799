//! Peers that know the token and keep to no rule of HTTP/2. In a process of their own, whose memory
//! is looked at: each test waits for the others to end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::Duration;

use sigil_enclave_client::connect::{HandshakeError, connect};
use sigil_enclave_protocol::bounds::{
    BATCH_ITEMS_MAX, CONNECTIONS_MAX, MESSAGE_BYTES_MAX, STREAMS_PER_CONNECTION_MAX,
};
use sigil_enclave_protocol::handshake::{Purpose, Refusal};
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};

mod raw;

// What an honest sidecar does is the same.
#[path = "../end_to_end/bench.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod bench;
#[path = "../end_to_end/kms.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod kms;
#[path = "../end_to_end/sidecar.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod sidecar;

use bench::Bench;
use raw::{GOAWAY, HEADERS, Peer, RST_STREAM, message, read, sign_call};
use sidecar::{Sidecar, item};

/// Far above the time after which a silent peer is given up, and above all else.
const PATIENCE: Duration = Duration::from_mins(2);
/// What any of these peers may cost beside its messages: buffers, tables, what an allocator keeps.
const SLACK_BYTES: usize = 8 << 20;
/// Streams that are opened whatever the other side says.
const STREAMS: u32 = 10_000;
/// Signatures of the honest sidecar beside each of them.
const HONEST: usize = 50;

/// One test at a time.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// With one worker, so that everybody meets on it; the key is cached and has signed.
async fn ready(bench: &Bench) -> Sidecar<'_> {
    let mut sidecar = Sidecar::with_key(bench).await;
    honest(&mut sidecar).await;
    sidecar
}

fn one_worker() -> Bench {
    Bench::start_parts(|parts| parts.workers = Some(1))
}

async fn honest(sidecar: &mut Sidecar<'_>) {
    for _ in 0..HONEST {
        let signing = sidecar.sign(item("default", 1, &[7; 32], b""));
        let signed = timeout(PATIENCE, signing).await.expect("served");
        assert_eq!(signed.error(), ErrorCode::Ok);
    }
}

fn full_batch() -> SignBatch {
    SignBatch { items: vec![item("default", 1, &[7; 32], b""); BATCH_ITEMS_MAX] }
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| 2 * index + 1)
}

async fn peer(sidecar: &Sidecar<'_>) -> Peer {
    Peer::new(sidecar.bench.connect().await, &sidecar.token).await
}

/// Asserts that what `work` did did not cost more than this, and says what it was.
fn assert_grown(what: &str, before_bytes: usize, most_bytes: usize) {
    let grown = resident_bytes().saturating_sub(before_bytes);
    println!("peers | {what:<40} | {:>6} KiB |", grown >> 10);
    assert!(grown <= most_bytes, "{what}: {grown} bytes, at most {most_bytes}");
}

/// Streams that were answered, and reset; whether the connection was given up.
async fn watch(mut reader: tokio::net::unix::OwnedReadHalf) -> (u32, u32, bool) {
    let (mut answered, mut reset, mut gone) = (0, 0, false);
    loop {
        match read(&mut reader).await.map(|frame| frame.kind) {
            Ok(HEADERS) => answered += 1,
            Ok(RST_STREAM) => reset += 1,
            Ok(GOAWAY) => gone = true,
            Ok(_) => {}
            // What it had said may be lost if it closes with something unread.
            Err(error) => {
                gone |= error.kind() == std::io::ErrorKind::ConnectionReset;
                return (answered, reset, gone);
            }
        }
    }
}

/// Opens so many streams at once, each with the beginning of a message if wanted, and then goes
/// away. Gives how many it could open; the enclave may have closed the connection by then.
async fn open_streams(peer: Peer, count: u32, with_data: bool) -> u32 {
    let (reader, mut writer) = peer.socket.into_split();
    let watching = tokio::spawn(watch(reader));
    let begun = &message(&full_batch())[..1_024];
    let mut opened = 0;
    for stream in streams(count) {
        let mut bytes = sign_call(stream);
        if with_data {
            bytes.extend(raw::frame(raw::DATA, 0, stream, begun));
        }
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
        opened += 1;
    }
    let _ = writer.shutdown().await;
    let (answered, reset, gone) = timeout(PATIENCE, watching).await.expect("closed").unwrap();
    assert!(answered <= STREAMS_PER_CONNECTION_MAX, "{answered} at once");
    // Of those that it took, none may have been answered before it was left alone.
    let kept = count.saturating_sub(answered + reset);
    let refused = opened < count || gone || kept <= STREAMS_PER_CONNECTION_MAX;
    assert!(refused, "{opened} opened, {answered} answered, {reset} reset");
    opened
}

/// As many connections as it takes: the enclave gives up one that goes on and on.
#[tokio::test]
async fn ten_thousand_streams_against_the_settings_are_refused_and_others_are_served() {
    let _alone = alone().await;
    let bench = one_worker();
    let mut sidecar = ready(&bench).await;
    for with_data in [false, true] {
        let before = resident_bytes();
        let (mut opened, mut connections) = (0, 0);
        while opened < STREAMS {
            let peer = peer(&sidecar).await;
            let opening = tokio::spawn(open_streams(peer, STREAMS - opened, with_data));
            honest(&mut sidecar).await;
            opened += timeout(PATIENCE, opening).await.expect("taken in").unwrap();
            connections += 1;
        }
        println!("peers | {opened} streams on {connections} connections, data: {with_data}");
        assert_grown("10,000 streams", before, SLACK_BYTES);
    }
}

/// On each of the streams of 16 connections all but the last byte of the longest message.
#[tokio::test]
async fn half_messages_cost_what_is_stated_and_others_are_served() {
    const PEERS: usize = 16;
    let _alone = alone().await;
    let bench = one_worker();
    let mut sidecar = ready(&bench).await;
    let before = resident_bytes();
    let mut begun = vec![0];
    begun.extend(u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_be_bytes());
    begun.resize(5 + MESSAGE_BYTES_MAX - 1, 0x0a);
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = peer(&sidecar).await;
        for stream in streams(STREAMS_PER_CONNECTION_MAX) {
            peer.socket.write_all(&sign_call(stream)).await.unwrap();
            timeout(PATIENCE, peer.send(stream, &begun)).await.expect("taken in").unwrap();
        }
        peers.push(peer);
    }
    honest(&mut sidecar).await;
    let mut reset = 0;
    for peer in &mut peers {
        while let Ok(Ok(frame)) = timeout(Duration::ZERO, peer.read()).await {
            reset += usize::from(matches!(frame.kind, RST_STREAM | GOAWAY));
        }
    }
    assert_eq!(reset, 0, "all of them are waited for");
    let stated = PEERS * STREAMS_PER_CONNECTION_MAX as usize * MESSAGE_BYTES_MAX;
    assert_grown("128 half messages of 128 KiB", before, stated + SLACK_BYTES);
}

/// Takes every answer, it says, and never looks at one. Sends batches up to so many bytes, or until
/// nobody takes them any more; gives the bytes.
async fn flood(peer: &mut Peer, most_bytes: usize) -> usize {
    let batch = message(&full_batch());
    for stream in streams(STREAMS_PER_CONNECTION_MAX) {
        peer.socket.write_all(&sign_call(stream)).await.unwrap();
    }
    let mut sent = 0;
    while sent + batch.len() <= most_bytes {
        let index = u32::try_from(sent / batch.len()).unwrap() % STREAMS_PER_CONNECTION_MAX;
        let bytes = raw::frame(raw::DATA, 0, 2 * index + 1, &batch);
        let sending = peer.socket.write_all(&bytes);
        let Ok(Ok(())) = timeout(Duration::from_secs(2), sending).await else { break };
        sent += batch.len();
        assert!(sent < 1 << 30, "bounded by windows and buffers");
    }
    sent
}

/// What the enclave takes on a connection before anything of it was dealt with.
const WINDOW_BYTES: usize = 2 * MESSAGE_BYTES_MAX;

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_and_others_are_served() {
    let _alone = alone().await;
    let bench = one_worker();
    let mut sidecar = ready(&bench).await;
    for most_bytes in [WINDOW_BYTES, usize::MAX] {
        let before = resident_bytes();
        let mut deaf = peer(&sidecar).await;
        let sent = flood(&mut deaf, most_bytes).await;
        honest(&mut sidecar).await;
        // Beyond that it is given up, sooner or later.
        assert!(sent > WINDOW_BYTES / 2 || most_bytes > WINDOW_BYTES, "{sent}");
        println!("peers | sent {sent} bytes and read nothing");
        assert_grown("answers that nobody reads", before, SLACK_BYTES);
    }
}

/// Neither answers a ping: each is given up, and its place is free again.
#[tokio::test]
async fn who_sends_half_a_message_or_never_reads_is_given_up() {
    let _alone = alone().await;
    let bench = one_worker();
    let mut sidecar = ready(&bench).await;
    let (mut half, mut deaf) = (peer(&sidecar).await, peer(&sidecar).await);
    half.socket.write_all(&sign_call(1)).await.unwrap();
    half.send(1, &message(&full_batch())[..100]).await.unwrap();
    half.ping().await.unwrap();
    flood(&mut deaf, WINDOW_BYTES).await;
    let ended = timeout(PATIENCE, async { while half.read().await.is_ok() {} }).await;
    assert!(ended.is_ok(), "half a message is not waited for");
    // What it finds when it looks at last: what had been sent, and the end.
    let late = async { while deaf.read().await.is_ok() {} };
    assert!(timeout(Duration::from_secs(10), late).await.is_ok(), "answers are not kept for ever");
    honest(&mut sidecar).await;
}

/// Every connection holds a place. Who comes when there is none is told so, and one that ends makes
/// room.
#[tokio::test]
async fn connections_are_bounded_and_one_that_ends_makes_room() {
    let _alone = alone().await;
    let bench = one_worker();
    let mut sidecar = ready(&bench).await;
    let mut open = Vec::new();
    let refused = loop {
        let mut socket = bench.connect().await;
        match connect(&mut socket, Purpose::Rpc, &sidecar.token).await {
            Ok(_) => open.push(socket),
            Err(HandshakeError::Refused(refusal)) => break refusal,
            Err(other) => panic!("{other}"),
        }
        assert!(open.len() < CONNECTIONS_MAX);
    };
    // The sidecar has one.
    assert_eq!((refused, open.len()), (Refusal::TooMany, CONNECTIONS_MAX - 1));
    honest(&mut sidecar).await;
    drop(open.pop());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut socket = bench.connect().await;
        match connect(&mut socket, Purpose::Rpc, &sidecar.token).await {
            Ok(_) => break,
            Err(HandshakeError::Refused(Refusal::TooMany)) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(Instant::now() < deadline, "no place becomes free");
    }
}
