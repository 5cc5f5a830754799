//! HTTP/1.1 as cheaply as it can be asked for: one prepared request a connection, in which the digest
//! changes.

use std::rc::Rc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::callers::Caller;
use super::digests::verifies;
use super::{Digests, Plan, PublicKey};

/// Room for any answer; ours have some 600 bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    digests: Digests,
    request: Vec<u8>,
    answer: Vec<u8>,
    alive: bool,
}

/// One connection for each caller.
pub(super) async fn connect_all(plan: &Rc<Plan>) -> Result<Vec<Connection>> {
    let mut all = Vec::with_capacity(plan.callers);
    for caller in 0..plan.callers {
        let stream = TcpStream::connect(plan.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        all.push(Connection {
            stream,
            digests: Digests::new(plan, caller),
            request: Vec::new(),
            answer: vec![0; ANSWER_BYTES_MAX],
            alive: true,
        });
    }
    Ok(all)
}

impl Caller for Connection {
    async fn call(&mut self, check: bool) -> Result<u32, String> {
        let (digest, key) = self.digests.next();
        write_request(&mut self.request, &digest, key);
        let exchanged = exchange(&mut self.stream, &self.request, &mut self.answer).await;
        let length = exchanged.map_err(|error| {
            self.alive = false;
            format!("connection: {:?}", error.kind())
        })?;
        let answer = self.answer.get(..length).unwrap_or_default();
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(refusal(answer));
        }
        if check && !is_signature(answer, &digest, key) {
            return Err("an invalid signature".to_owned());
        }
        Ok(1)
    }

    fn lives(&self) -> bool {
        self.alive
    }
}

fn write_request(out: &mut Vec<u8>, digest: &[u8; 32], key: &PublicKey) {
    let body_bytes = r#"{"keyId":"","digest":""}"#.len() + key.id.len() + 64;
    out.clear();
    out.extend_from_slice(
        b"POST /sign HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n",
    );
    out.extend_from_slice(format!("content-length: {body_bytes}\r\n\r\n").as_bytes());
    out.extend_from_slice(b"{\"keyId\":\"");
    out.extend_from_slice(key.id.as_bytes());
    out.extend_from_slice(b"\",\"digest\":\"");
    out.extend_from_slice(const_hex::Buffer::<32>::new().format(digest).as_bytes());
    out.extend_from_slice(b"\"}");
}

/// Gives the bytes of the answer.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut [u8],
) -> std::io::Result<usize> {
    stream.write_all(request).await?;
    let (mut length, mut whole) = (0, None);
    loop {
        let read = stream.read(answer.get_mut(length..).unwrap_or_default()).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        length += read;
        whole = whole.or_else(|| whole_bytes(&answer[..length]));
        if whole.is_some_and(|whole| length >= whole) {
            return Ok(length);
        }
    }
}

/// Bytes of head and body, once the head is there.
fn whole_bytes(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(answer.get(..head)?).ok()?;
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(head + length.unwrap_or_default())
}

fn body(answer: &[u8]) -> Option<serde_json::Value> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    serde_json::from_slice(answer.get(head..)?).ok()
}

fn refusal(answer: &[u8]) -> String {
    let code = body(answer).and_then(|body| body["code"].as_str().map(str::to_owned));
    let status = answer.get(9..12).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    format!("{status} {}", code.unwrap_or_default())
}

fn is_signature(answer: &[u8], digest: &[u8], key: &PublicKey) -> bool {
    let Some(body) = body(answer) else { return false };
    json_is_signature(&body, digest, key)
}

/// Whether a body of the contract holds a signature of the key.
pub(super) fn json_is_signature(body: &serde_json::Value, digest: &[u8], key: &PublicKey) -> bool {
    let signature = body["signature"].as_str().and_then(|text| const_hex::decode(text).ok());
    signature.is_some_and(|signature| verifies(key, digest, &signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(whole_bytes(&head[..20]), None);
        assert_eq!(whole_bytes(head), Some(head.len() + 3));
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let key = PublicKey { id: "k1a".to_owned(), hex: String::new() };
        let mut request = Vec::new();
        write_request(&mut request, &[7; 32], &key);
        assert_eq!(whole_bytes(&request), Some(request.len()));
        assert_eq!(body(&request).unwrap()["keyId"], "k1a");
    }
}
