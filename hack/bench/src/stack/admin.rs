//! One HTTP request at a time, for what is not measured: making keys, reading metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A connection that is used once.
pub(crate) struct Http {
    stream: TcpStream,
}

impl Http {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// The body of an answer 200.
    pub(crate) fn get(self, path: &str) -> Result<String> {
        match self.exchange("GET", path, "")? {
            (200, body) => Ok(body),
            (status, body) => bail!("{path} answers {status}: {body}"),
        }
    }

    /// Status and body.
    pub(crate) fn post(self, path: &str, body: &str) -> Result<(u16, String)> {
        self.exchange("POST", path, body)
    }

    fn exchange(mut self, verb: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        ensure!(!head.to_ascii_lowercase().contains("transfer-encoding"), "a body in chunks");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, body.to_owned()))
    }
}
