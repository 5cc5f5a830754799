//! Instructions of the signing thread for each signature at saturation, counted by callgrind: no
//! noise, so a change of a few percent shows. What libsecp256k1 does is counted apart.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use sigil_enclave_image::pins::VerifyMode;

use crate::caller::Caller;
use crate::enclave::Enclave;
use crate::load::{Load, Shape};
use crate::stats::verdict;

pub(crate) mod gate;
pub(crate) mod hide_auxv;
pub(crate) mod profile;

use gate::Committed;
use profile::Profile;

/// Instructions a signature besides signing. Neither the gate nor a new figure may exceed it.
const BESIDES_MAX: f64 = 3_000.0;
/// Batches of the run that is subtracted: caches and pools have filled.
const WARM_UP_BATCHES: usize = 10;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shape: Shape,
    /// Batches that are counted.
    #[arg(long, default_value_t = 100)]
    batches: usize,
    /// Functions outside libsecp256k1 that are listed.
    #[arg(long, default_value_t = 16)]
    list: usize,
    /// Fails if the figure differs from the one in this file by more than its tolerance, or is
    /// above its target.
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// Writes the figure into this file, unless it is above its target.
    #[arg(long, value_name = "FILE", conflicts_with = "gate")]
    write: Option<PathBuf>,
}

/// Prints the figure and what it is made of; judges it if asked to.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shorter = count(arguments.shape, WARM_UP_BATCHES)?;
    let longer = count(arguments.shape, WARM_UP_BATCHES + arguments.batches)?;
    let profile = longer.beyond(&shorter);
    let signatures = (arguments.batches * arguments.shape.items) as f64;
    let each = |instructions: u64| instructions as f64 / signatures;
    let besides = each(profile.besides_library());
    let Shape { items, in_flight } = arguments.shape;
    println!("stream:  {items} digests a message, {in_flight} messages in flight");
    println!("instructions a signature, signing thread, {} batches:", arguments.batches);
    for (name, instructions) in &profile.library {
        println!("{:>10.0}  {name}", each(*instructions));
    }
    println!(
        "{besides:>10.0}  besides signing, target <= {BESIDES_MAX}: {}",
        verdict(besides, BESIDES_MAX)
    );
    println!("of which, without what they call:");
    for (name, instructions) in profile.dearest().into_iter().take(arguments.list) {
        println!("{:>10.0}  {name}", each(instructions));
    }
    if arguments.write.is_some() || arguments.gate.is_some() {
        gate::within(besides, BESIDES_MAX)?;
    }
    if let Some(file) = &arguments.write {
        Committed::update(file, |committed| committed.set_besides_signing(besides))?;
    }
    match &arguments.gate {
        Some(file) => Committed::read(file)?.judge(besides),
        None => Ok(()),
    }
}

/// Counts a whole run with this many batches.
fn count(shape: Shape, batches: usize) -> Result<Profile> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let wrapper = wrapper(folder.path())?;
    let enclave = Enclave::start(&wrapper, VerifyMode::BatchSample)
        .context("is valgrind installed? hack/packages bench")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut caller = Caller::claim(&enclave).await?;
        Load::open(&mut caller, shape).await?.run(batches).await
    })?;
    enclave.stop()?;
    profile::read_signing_thread(folder.path())
}

/// Runs a program under callgrind, which leaves a file for each thread in `folder`.
pub(crate) fn wrapper(folder: &Path) -> Result<Vec<OsString>> {
    let this = std::env::current_exe().context("find the own executable")?;
    Ok(vec![
        this.into_os_string(),
        "hide-auxv".into(),
        "valgrind".into(),
        "--quiet".into(),
        "--tool=callgrind".into(),
        "--separate-threads=yes".into(),
        "--compress-strings=no".into(),
        format!("--callgrind-out-file={}", folder.join("out").display()).into(),
    ])
}
