//! How often one thread of the dataplane wakes another for a signature: calls of `futex`, and of `write`
//! into the eventfd of another thread's poll (sockets are written with other calls). Counted by strace over
//! runs of different length, so that what a start does falls out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::full::beside;
use crate::generator::Path;
use crate::measure::sign;
use crate::stack::sigil::{Settings, start};
use crate::stats::verdict;
use crate::system_calls::count_names;

/// Calls that wake a thread.
const WAKING: [&str; 2] = ["futex", "write"];
/// What the control threads do meanwhile, several seconds under strace. One handoff for a full message
/// to the enclave would be 0.03.
const HANDOFFS_MAX: f64 = 0.02;
const CONCURRENCY: usize = 128;
const SHORTER: u64 = 1_024;
const LONGER: u64 = 17_408;

#[derive(Args)]
pub(crate) struct Arguments {
    /// `sigil-dataplane`; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    dataplane: Option<PathBuf>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http1,grpc,stream,batch")]
    paths: Vec<Path>,
}

/// Prints the calls that wake a thread, and all others by name.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dataplane = beside(arguments.dataplane.as_ref(), "sigil-dataplane")?;
    for path in &arguments.paths {
        let shorter = count(&dataplane, *path, SHORTER)?;
        let longer = count(&dataplane, *path, LONGER)?;
        let each = |name: &str| {
            let of = |calls: &BTreeMap<String, u64>| calls.get(name).copied().unwrap_or_default();
            of(&longer).saturating_sub(of(&shorter)) as f64 / (LONGER - SHORTER) as f64
        };
        let handoffs: f64 = WAKING.into_iter().map(each).sum();
        println!(
            "{path:?}: {handoffs:.4} handoffs a signature, at most {HANDOFFS_MAX}: {}",
            verdict(handoffs, HANDOFFS_MAX)
        );
        for name in longer.keys().filter(|name| each(name) >= 0.000_1) {
            println!("{:>10.4}  {name}", each(name));
        }
    }
    Ok(())
}

/// Calls of all threads by name.
fn count(dataplane: &FilePath, path: Path, signatures: u64) -> Result<BTreeMap<String, u64>> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let log = folder.path().join("calls");
    // `-D` keeps the dataplane our own child; `-ff` gives each thread a file.
    let words = ["strace", "-D", "-f", "-ff", "-qq", "-o"].map(OsString::from);
    let wrapper = words.into_iter().chain([log.into_os_string()]).collect();
    let settings = Settings { workers: 1, keys: 4, wrapper, ..Settings::default() };
    let mut stack = start("strace", dataplane, &settings)
        .context("is strace installed? hack/packages bench")?;
    sign(&stack, path, (CONCURRENCY, signatures))?;
    stack.front.stop()?;
    let mut calls = BTreeMap::new();
    for entry in std::fs::read_dir(folder.path())? {
        let text = std::fs::read_to_string(entry?.path()).context("read what strace wrote")?;
        for (name, count) in count_names(&text) {
            *calls.entry(name).or_default() += count;
        }
    }
    Ok(calls)
}
