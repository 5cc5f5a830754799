//! The binaries that go into images: built once with cargo, debug information taken off.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo;

/// Builds the packages' binaries, strips copies of them into `stage/bin` and returns that folder.
pub(super) fn stripped(packages: &[&str], profile: &str, stage: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--bins", "--message-format", "json-render-diagnostics"]);
    command.args(["--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.stderr(std::process::Stdio::inherit());
    let messages = repo::output(&mut command)?;
    let bin = stage.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
    for package in packages {
        let built = executable(&messages, package)
            .with_context(|| format!("cargo built no binary {package}"))?;
        strip(&built, &bin.join(package))?;
    }
    Ok(bin)
}

/// Path of the binary named like its package, from cargo's messages.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == name
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .args([to, from])
        .status()
        .context("running strip (Debian package binutils)")?;
    if !status.success() {
        bail!("strip {}: {status}", from.display());
    }
    Ok(())
}

/// Writes pins.cbor and measurements.json for `enclave` into `out`.
pub(super) fn pin(ctl: &Path, enclave: &Path, pins: &Path, out: &Path) -> Result<()> {
    let status = Command::new(ctl)
        .args(["ctl", "pin-image", "--process"])
        .arg(enclave)
        .arg("--pins")
        .arg(pins)
        .arg("--out")
        .arg(out)
        .stdout(std::process::Stdio::null())
        .status()
        .with_context(|| format!("running {}", ctl.display()))?;
    if !status.success() {
        bail!("ctl pin-image: {status}");
    }
    Ok(())
}
