//! The tools for auditors, run as they are, against published vectors and an independent
//! implementation. Where the data come from: `enclave/testdata/*/PROVENANCE.md`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod envelopes;
mod signatures;

use std::io::Write;
use std::process::{Command, Stdio};

/// What a run of the binary gave.
struct Run {
    status: Option<i32>,
    out: String,
    err: String,
}

fn run(arguments: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sigil-enclave-insecure"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A tool that refuses a line reads no further, so this may fail.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    for arguments in [&["sign"][..], &["open-envelope", "one"], &["sign-vectors", "x"], &[]] {
        let run = run(arguments, "");
        assert_eq!((run.status, run.out.as_str()), (Some(64), ""), "{arguments:?}: {}", run.err);
    }
    assert_eq!(run(&["--help"], "").status, Some(0));
}
