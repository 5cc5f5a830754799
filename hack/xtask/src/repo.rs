//! What git and cargo say about this repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Root of the checkout: the folder above `hack/xtask`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Files that git tracks or would track, relative to the root.
pub(crate) fn files() -> Result<Vec<String>> {
    let listing = output(Command::new("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files: Vec<_> = listing.lines().map(str::to_owned).collect();
    files.retain(|file| root().join(file).exists());
    files.sort();
    files.dedup();
    Ok(files)
}

/// `cargo metadata` of the workspace, resolved.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let text = output(Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// Runs a command at the root and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.current_dir(root()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no text"))
}
