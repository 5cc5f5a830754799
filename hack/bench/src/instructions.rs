//! Instructions of the dataplane's serving thread for each signature, by path, counted by callgrind over
//! runs of different length: what a start costs falls out.

use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::callgrind::gate::Committed;
use crate::callgrind::profile::{Profile, read_most};
use crate::callgrind::wrapper;
use crate::full::beside;
use crate::generator::Path;
use crate::measure::sign;
use crate::stack::sigil::{Settings, start};
use crate::stats::{aim, verdict};

/// What one signature may cost on each path, and what is aimed at.
const TARGETS: [(Path, &str, f64, f64); 4] = [
    (Path::Http1, "http1", 20_000.0, 16_000.0),
    (Path::Grpc, "grpc", 45_000.0, 36_000.0),
    (Path::Stream, "stream", 8_000.0, 6_000.0),
    (Path::Batch, "batch", 8_000.0, 6_000.0),
];
/// Requests under way.
const CONCURRENCY: usize = 128;
/// Signatures of the run that is subtracted: connections, tables and pools are there.
const SHORTER: u64 = 1_024;
const LONGER: u64 = 4_096;
/// Where instructions are spent, by words in the names of functions.
const PARTS: [(&str, &[&str]); 9] = [
    ("HTTP/1.1 and HTTP/2 (hyper, h2, http, httparse)", &["hyper", "h2::", "http::", "httparse"]),
    ("gRPC (tonic, prost, tower)", &["tonic", "prost", "tower"]),
    ("tokio", &["tokio", "mio::"]),
    ("sigil", &["sigil"]),
    ("JSON (serde)", &["serde"]),
    ("metrics, logs", &["prometheus", "tracing"]),
    ("random numbers, hashes (aws-lc)", &["aws_lc", "RAND", "CTR_DRBG", "sip"]),
    ("allocator", &["malloc", "free", "realloc", "calloc", "_int_", "alloc::"]),
    ("memcpy and its kin", &["memcpy", "memmove", "memset", "memcmp", "memchr", "bytes::"]),
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// `sigil-dataplane`; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    dataplane: Option<PathBuf>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http1,grpc,stream,batch")]
    paths: Vec<Path>,
    /// Functions that are listed.
    #[arg(long, default_value_t = 0)]
    list: usize,
    /// Fails if a figure differs from the one in this file by more than its tolerance.
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// Writes the figures into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "gate")]
    write: Option<PathBuf>,
}

/// Prints each path's figure and what it is made of; judges it if asked to.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dataplane = beside(arguments.dataplane.as_ref(), "sigil-dataplane")?;
    let mut failed = None;
    for (path, name, most, wanted) in TARGETS {
        if !arguments.paths.contains(&path) {
            continue;
        }
        let shorter = count(&dataplane, path, SHORTER)?;
        let longer = count(&dataplane, path, LONGER)?;
        let profile = longer.beyond(&shorter);
        let each = |instructions: u64| instructions as f64 / (LONGER - SHORTER) as f64;
        let now = each(profile.total());
        println!(
            "{name}: {now:.0} instructions a signature; at most {most:.0}: {}; aim {wanted:.0}: {}",
            verdict(now, most),
            aim(now, wanted)
        );
        for (part, words) in PARTS {
            println!("{:>10.0}  {part}", each(profile.of(words)));
        }
        for (function, instructions) in profile.dearest().into_iter().take(arguments.list) {
            println!("{:>10.0}    {function}", each(instructions));
        }
        if let Some(file) = &arguments.write {
            Committed::update(file, |committed| committed.set_dataplane(name, now))?;
        }
        if let Some(file) = &arguments.gate {
            failed = Committed::read(file)?.judge_dataplane(name, now).err().or(failed);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Counts a whole run with so many signatures.
fn count(dataplane: &FilePath, path: Path, signatures: u64) -> Result<Profile> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let settings =
        Settings { workers: 1, keys: 4, wrapper: wrapper(folder.path())?, ..Settings::default() };
    let mut stack = start("callgrind", dataplane, &settings)
        .context("is valgrind installed? hack/packages bench")?;
    sign(&stack, path, (CONCURRENCY, signatures))?;
    stack.front.stop()?;
    read_most(folder.path(), |profile| profile.of(&["sigil_dataplane::ingress"]))
}
