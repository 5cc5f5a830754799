//! What both sides read before the first HTTP/2 byte, the launcher's hand-off, and the vsock of a
//! QEMU machine. The first byte chooses the reader; the rest is what the peer sends.

use std::cell::LazyCell;
use std::future::Future;
use std::io::ErrorKind;

use sigil_enclave::handshake::Door;
use sigil_enclave_client::connect::{HandshakeError, claim, connect};
use sigil_enclave_client::frames::{decode_hello, decode_verdict};
use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_client::vhost::ask_for_port;
use sigil_enclave_protocol::handshake::{
    BootId, ClaimToken, HELLO_BYTES, Hello, PROOF_BYTES, Proof, Purpose, Refusal, VERDICT_BYTES,
    Verdict,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, join};
use tokio::runtime::Runtime;

use crate::Target;

pub(crate) const TARGET: Target =
    Target { name: "handshake", input_bytes_max: 512, memory_bytes_max: 64 * 1024, check, seeds };

const TOKEN: [u8; 32] = [3; 32];
const HELLO: Hello = Hello { boot_id: BootId([1; 16]), nonce: [2; 32] };

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    });
}

fn check(input: &[u8]) {
    let Some((kind, sent)) = input.split_first() else { return };
    match kind % 7 {
        0 => unclaimed_door(sent),
        1 => claimed_door(sent),
        2 => proved(sent),
        3 => client(sent),
        4 => handoff(sent),
        5 => vhost(sent),
        _ => frames(sent),
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// What the enclave answers to these bytes, and for what it lets the peer in.
fn knock(door: &Door, sent: &[u8]) -> (Vec<u8>, Option<Purpose>) {
    let mut stream = join(sent, Vec::new());
    let admitted = wait(door.admit(&mut stream, |_| Ok((1, ()))));
    assert_eq!(admitted.is_ok(), sent.len() >= PROOF_BYTES, "half a frame gets no answer");
    let (_, answer) = stream.into_inner();
    let expected = if admitted.is_ok() { HELLO_BYTES + VERDICT_BYTES } else { HELLO_BYTES };
    assert_eq!(answer.len(), expected);
    (answer, admitted.ok().flatten().map(|(purpose, ..)| purpose))
}

/// Nobody is let in, and nothing but the frame of a claim claims.
fn unclaimed_door(sent: &[u8]) {
    let door = Door::new(BootId([1; 16]), 4);
    let (answer, admitted) = knock(&door, sent);
    assert_eq!(admitted, None);
    if let Some(code) = answer.get(HELLO_BYTES) {
        assert_eq!(*code == 0, sent[..PROOF_BYTES] == Proof::CLAIM.encode());
        assert!([0, Refusal::Malformed as u8, Refusal::NotClaimed as u8].contains(code));
    }
}

/// No bytes that were made before the enclave chose its nonce let anybody in.
fn claimed_door(sent: &[u8]) {
    let Some((door, _)) = claimed() else { return };
    let (answer, admitted) = knock(&door, sent);
    assert_eq!(admitted, None);
    assert!(answer.get(HELLO_BYTES).is_none_or(|code| (1..=4).contains(code)));
}

/// A claimed door and its token; nothing if this machine was so busy that the time ran out.
fn claimed() -> Option<(Door, ClaimToken)> {
    let door = Door::new(BootId([1; 16]), 4);
    let (mut ours, mut theirs) = duplex(256);
    let both = async { tokio::join!(door.admit(&mut ours, |_| Ok((1, ()))), claim(&mut theirs)) };
    match wait(both).1 {
        Ok((_, token)) => Some((door, token)),
        Err(error) => {
            assert!(matches!(error, HandshakeError::Timeout | HandshakeError::Io(_)), "{error}");
            None
        }
    }
}

/// With the token, the frame is let in for what it says, whatever it says; changed, it is not.
fn proved(sent: &[u8]) {
    let Some((frame, change)) = sent.split_first_chunk::<PROOF_BYTES>() else { return };
    let Some(Proof { purpose, .. }) = Proof::decode(frame) else { return };
    if purpose == Purpose::Claim {
        return;
    }
    let Some((door, token)) = claimed() else { return };
    let (mut ours, mut theirs) = duplex(256);
    let at = change.first().map(|at| usize::from(*at) % PROOF_BYTES);
    let peer = async {
        let mut hello = [0; HELLO_BYTES];
        theirs.read_exact(&mut hello).await.expect("a hello");
        let hello = decode_hello(&hello).expect("a hello");
        let mut frame = Proof::new(purpose, &hello, &token).encode();
        if let Some(at) = at {
            frame[at] ^= 1;
        }
        theirs.write_all(&frame).await.expect("room");
    };
    let both = async { tokio::join!(door.admit(&mut ours, |_| Ok((1, ()))), peer) };
    let admitted = match wait(both).0 {
        Ok(admitted) => admitted.map(|(purpose, ..)| purpose),
        Err(error) => return assert_eq!(error.kind(), ErrorKind::TimedOut),
    };
    assert_eq!(admitted, if at.is_some() { None } else { Some(purpose) });
}

/// The caller's side takes exactly the frames that an enclave writes.
fn client(sent: &[u8]) {
    let Some((claims, sent)) = sent.split_first() else { return };
    let claims = claims & 1 == 1;
    let mut stream = join(sent, Vec::new());
    let accepted = if claims {
        wait(claim(&mut stream)).map(|(accepted, token)| (accepted, Some(token)))
    } else {
        let connected = wait(connect(&mut stream, Purpose::Rpc, &ClaimToken::new(TOKEN)));
        connected.map(|accepted| (accepted, None))
    };
    let verdict = match accepted {
        Ok((accepted, token)) => {
            assert_eq!(accepted.hello.encode(), sent[..HELLO_BYTES]);
            Verdict::Accepted {
                worker_index: accepted.worker_index,
                worker_count: accepted.worker_count,
                token,
            }
        }
        Err(HandshakeError::Refused(refusal)) => Verdict::Refused(refusal),
        Err(_) => return,
    };
    assert_eq!(*verdict.encode(), sent[HELLO_BYTES..][..VERDICT_BYTES], "one spelling");
}

/// What is read is written so that it reads as the same.
fn handoff(sent: &[u8]) {
    let Ok(handoff) = wait(Handoff::read(&mut &*sent)) else { return };
    let mut written = Vec::new();
    wait(handoff.write(&mut written)).expect("what was read");
    let again = wait(Handoff::read(&mut written.as_slice())).expect("what was written");
    assert_eq!(again.boot_id, handoff.boot_id);
    assert_eq!(again.token.expose_secret(), handoff.token.expose_secret());
    assert_eq!(again.address, handoff.address);
}

/// The line ends where it ends: what follows belongs to the enclave.
fn vhost(sent: &[u8]) {
    let mut stream = join(sent, Vec::new());
    let asked = wait(ask_for_port(&mut stream, 5000));
    let (rest, question) = stream.into_inner();
    assert_eq!(question, b"CONNECT 5000\n");
    let line = &sent[..sent.len() - rest.len()];
    assert!(line.len() <= 16);
    if asked.is_ok() {
        assert!(line.starts_with(b"OK ") && line.ends_with(b"\n"));
        assert!(!line[..line.len() - 1].contains(&b'\n'));
    }
}

/// Each frame has one spelling.
fn frames(sent: &[u8]) {
    if let Some(frame) = sent.first_chunk()
        && let Ok(hello) = decode_hello(frame)
    {
        assert_eq!(hello.encode(), *frame);
    }
    if let Some(frame) = sent.first_chunk()
        && let Some(proof) = Proof::decode(frame)
    {
        assert_eq!(proof.encode(), *frame);
    }
    if let Some(frame) = sent.first_chunk() {
        for claimed in [false, true] {
            if let Ok(verdict) = decode_verdict(frame, claimed) {
                assert_eq!(*verdict.encode(), *frame);
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let token = ClaimToken::new(TOKEN);
    let proof = |purpose| Proof::new(purpose, &HELLO, &token).encode();
    let accepted = |token| Verdict::Accepted { worker_index: 1, worker_count: 4, token }.encode();
    let hello = HELLO.encode();
    let handoff = |address: &str| {
        let length = u16::try_from(address.len()).unwrap_or(0).to_be_bytes();
        [&[4], b"SGH1".as_slice(), &[1; 16], &TOKEN, &length, address.as_bytes()].concat()
    };
    vec![
        [&[0], Proof::CLAIM.encode().as_slice()].concat(),
        [&[1], proof(Purpose::Rpc).as_slice()].concat(),
        [&[2], proof(Purpose::Rpc).as_slice()].concat(),
        [&[2], proof(Purpose::Tunnel([6; 16])).as_slice(), &[40]].concat(),
        [&[3, 0], hello.as_slice(), accepted(None).as_slice()].concat(),
        [&[3, 1], hello.as_slice(), accepted(Some(token.clone())).as_slice()].concat(),
        [&[3, 0], hello.as_slice(), Verdict::Refused(Refusal::TooMany).encode().as_slice()]
            .concat(),
        handoff("vsock://16:5000"),
        handoff("unix:@sigil-enclave"),
        b"\x05OK 1073741824\nSGL1".to_vec(),
        [&[6], hello.as_slice()].concat(),
    ]
}
