//! `ctl pin-image`: pins an enclave and measures the result. No compiler, no network.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sigil_image_authoring::image::{self, Pinned};
use sigil_image_authoring::measurements::Measurements;
use sigil_image_authoring::pins_yaml;

use super::verify_attestation::print;

/// Arguments of `ctl pin-image`.
#[derive(clap::Args)]
pub struct Args {
    /// The image without pins, base.eif.
    #[arg(long, value_name = "EIF", required_unless_present = "process")]
    base: Option<PathBuf>,
    /// Development: the enclave executable that will run as a process with these pins.
    #[arg(long, value_name = "EXECUTABLE", conflicts_with = "base")]
    process: Option<PathBuf>,
    /// What to pin, written by a person (pins.yaml).
    #[arg(long, value_name = "FILE")]
    pins: PathBuf,
    /// With --base the pinned image; with --process a folder for pins.cbor and measurements.json.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// With --base, where to write the measurements; without it `measurements.json` beside the image.
    #[arg(long, value_name = "FILE", conflicts_with = "process")]
    measurements: Option<PathBuf>,
}

/// Writes the files and prints the measurements.
pub(super) fn run(args: &Args) -> ExitCode {
    match pin(args) {
        Ok(json) => print(&json, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn pin(args: &Args) -> anyhow::Result<String> {
    match (&args.base, &args.process) {
        (Some(base), _) => pin_base(base, args),
        (None, Some(executable)) => pin_process(executable, args),
        (None, None) => bail!("give --base EIF, or --process EXECUTABLE"),
    }
}

fn pin_base(base: &Path, args: &Args) -> anyhow::Result<String> {
    let pins = pins_yaml::read(&args.pins)?;
    let base = std::fs::read(base).with_context(|| format!("--base {}", base.display()))?;
    let Pinned { eif, measurements } = image::pin(&base, &pins)?;
    let json = measurements.to_json()?;
    let beside = || args.out.with_file_name("measurements.json");
    let measurements = args.measurements.clone().unwrap_or_else(beside);
    if measurements == args.out {
        bail!("--measurements: the same file as --out");
    }
    replace(&args.out, &eif)?;
    replace(&measurements, json.as_bytes())?;
    Ok(json)
}

fn pin_process(executable: &Path, args: &Args) -> anyhow::Result<String> {
    let pins = pins_yaml::read(&args.pins)?;
    if !pins.insecure {
        bail!("pins: insecure: an enclave that runs as a process needs `insecure: true`");
    }
    let executable = std::fs::read(executable).with_context(|| executable.display().to_string())?;
    let pins = pins.encode()?;
    let json = Measurements::of_process(&executable, &pins)?.to_json()?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    replace(&args.out.join("pins.cbor"), &pins)?;
    replace(&args.out.join("measurements.json"), json.as_bytes())?;
    Ok(json)
}

/// Whole or not at all: a reader never sees half a file.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let half = path.with_added_extension("new");
    std::fs::write(&half, bytes)
        .and_then(|()| std::fs::rename(&half, path))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
