//! Checks that lints cannot see. Each is a function that returns what it found, one line a finding.

mod dependencies;
mod faults;
mod layout;
mod text;

use anyhow::{Result, bail};

use crate::repo;

/// Runs every check and prints all findings at once.
pub(crate) fn run() -> Result<()> {
    let files = repo::files()?;
    let metadata = repo::metadata()?;
    let mut findings = Vec::new();
    findings.extend(layout::check(&files));
    findings.extend(text::check(&files)?);
    findings.extend(dependencies::check(&metadata)?);
    findings.extend(faults::check(&files)?);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: ok ({} files)", files.len());
    Ok(())
}
