//! Where the server's programs are.

use std::path::{Path, PathBuf};

use super::Error;

/// Debian keeps one folder a version, outside of `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A folder with PostgreSQL's programs.
#[derive(Debug)]
pub struct Binaries(PathBuf);

// === impl Binaries ===

impl Binaries {
    /// The newest version that Debian installed, or what `PATH` has.
    ///
    /// # Errors
    /// There is none; the text says how to get it.
    pub fn find() -> Result<Self, Error> {
        let mut folders: Vec<_> = std::fs::read_dir(DEBIAN)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        folders.sort_by_key(|folder: &PathBuf| std::cmp::Reverse(version(folder)));
        let mut folders: Vec<_> = folders.into_iter().map(|folder| folder.join("bin")).collect();
        folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        Self::find_in(&folders)
    }

    pub(crate) fn find_in(folders: &[PathBuf]) -> Result<Self, Error> {
        let complete = |folder: &&PathBuf| {
            ["postgres", "initdb", "psql"].iter().all(|name| folder.join(name).exists())
        };
        folders.iter().find(complete).map(|folder| Self(folder.clone())).ok_or_else(|| {
            Error(
                "no PostgreSQL server on this machine; `hack/packages test` installs Debian's \
                 package postgresql"
                    .to_owned(),
            )
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn version(folder: &Path) -> u32 {
    folder.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}
