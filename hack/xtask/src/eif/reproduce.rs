//! Builds the image twice, as two people on two machines would: copies of the sources in folders of
//! different names and depths, each with an empty registry and an empty target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::build::{self, Folders};
use super::{Args, assemble, kernel, read, sha256};
use crate::repo;

/// Names of different lengths: a path that gets into the program moves everything behind it.
const PLACES: [&str; 2] = ["a", "somewhere/else-entirely"];

/// Compares and prints both hashes.
pub(super) fn run(args: &Args) -> Result<()> {
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    if args.kernel.is_none() {
        let status = Command::new(repo::root().join("hack/qemu")).arg("verify-kernel").status()?;
        anyhow::ensure!(status.success(), "hack/qemu verify-kernel: {status}");
    }
    let kernel = read(&kernel(args.kernel.as_deref(), &repo::root())?)?;
    for tool in build::tools()? {
        println!("{tool}");
    }
    // Both copies first: somebody may go on working while the builds run.
    let prepared = PLACES.map(|place| prepare(&scratch.path().join(place)));
    let mut images = Vec::new();
    for (place, folders) in PLACES.into_iter().zip(prepared) {
        let started = Instant::now();
        let folders = folders?;
        let enclave = build::enclave(args.program(), &folders)?;
        let image = assemble(&kernel, &enclave, args.program())?;
        println!(
            "{place}: base.eif sha256:{} {} bytes, built in {} s",
            sha256(&image),
            image.len(),
            started.elapsed().as_secs()
        );
        keep(args, place, &image)?;
        images.push(image);
        // The next one must find nothing, and the disk need not hold both.
        std::fs::remove_dir_all(scratch.path().join(place)).context("removing a build")?;
    }
    match images.as_slice() {
        [one, other] if one == other => {
            println!("the same sources give the same bytes");
            Ok(())
        }
        _ => bail!("two builds of the same sources differ; --out DIR keeps both"),
    }
}

/// A copy of the sources as git sees them, with empty folders beside it.
fn prepare(place: &Path) -> Result<Folders> {
    let sources = place.join("sources");
    for file in repo::files()? {
        let (from, to) = (repo::root().join(&file), sources.join(&file));
        let folder = to.parent().unwrap_or(&sources);
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        std::fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    let cargo_home = place.join("cargo");
    std::fs::create_dir_all(&cargo_home)?;
    // Where crates come from is the machine's business; what they are, Cargo.lock's.
    if let Some(config) = machine_config() {
        std::fs::copy(config, cargo_home.join("config.toml"))?;
    }
    Ok(Folders { sources, cargo_home: Some(cargo_home), target: Some(place.join("target")) })
}

fn machine_config() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("config.toml")).filter(|path| path.exists())
}

fn keep(args: &Args, place: &str, image: &[u8]) -> Result<()> {
    let Some(out) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(out)?;
    let path = out.join(format!("{}.eif", place.replace('/', "-")));
    std::fs::write(&path, image).with_context(|| format!("writing {}", path.display()))
}
