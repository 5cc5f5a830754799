//! Asks the admin listener whether the process lives or is ready. The kubelet cannot: the listener
//! is on loopback, and the image holds no other program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Within the time that a probe gets from the kubelet.
const TIMEOUT: Duration = Duration::from_secs(4);
/// An answer is a status line, a few headers and a word.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What to ask.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Page {
    /// The process answers.
    Livez,
    /// It answers requests honestly.
    Readyz,
}

/// Arguments of `ctl probe`.
#[derive(clap::Args)]
pub struct Args {
    /// What to ask.
    page: Page,
    /// The admin listener of the process.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match ask(args) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("{}", answer.lines().last().unwrap_or("an empty answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}: {error}", args.admin);
            ExitCode::FAILURE
        }
    }
}

fn ask(args: &Args) -> std::io::Result<String> {
    let path = match args.page {
        Page::Livez => "livez",
        Page::Readyz => "readyz",
    };
    let mut stream = TcpStream::connect_timeout(&args.admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // One write: a formatted one would send the pieces apart.
    let head = format!("GET /{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", args.admin);
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(answer: &'static str) -> ExitCode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let length = stream.read(&mut head).unwrap();
            assert!(head[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let code = run(&Args { page: Page::Readyz, admin });
        server.join().unwrap();
        code
    }

    #[test]
    fn only_200_is_a_success() {
        let ok = answered("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
        assert_eq!(format!("{ok:?}"), format!("{:?}", ExitCode::SUCCESS));
        let not = answered("HTTP/1.1 503 Service Unavailable\r\n\r\nthe store cannot write\n");
        assert_eq!(format!("{not:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
