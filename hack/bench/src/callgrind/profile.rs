//! Reads what callgrind writes. Format: Valgrind manual, "Callgrind Format Specification".

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Every function of libsecp256k1 that can be called from outside has this prefix.
const LIBRARY: &str = "rustsecp256k1_";
/// SHA-256 that the library calls back.
const CALLED_BACK: [&str; 2] = ["signer::ffi::compress", "sha2::"];

/// Instructions of one thread.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// All of them.
    total: u64,
    /// Calls into libsecp256k1 by function, with everything below.
    pub(crate) library: BTreeMap<String, u64>,
    /// Other functions, each without what it calls.
    own: BTreeMap<String, u64>,
}

impl Profile {
    /// Instructions outside libsecp256k1 and what it calls.
    pub(crate) fn besides_library(&self) -> u64 {
        self.total.saturating_sub(self.library.values().sum())
    }

    /// All instructions.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Instructions of functions whose name holds one of these words.
    pub(crate) fn of(&self, words: &[&str]) -> u64 {
        let named = |name: &&String| words.iter().any(|word| name.contains(word));
        self.own.iter().filter(|(name, _)| named(name)).map(|(_, cost)| cost).sum()
    }

    fn signing(&self) -> u64 {
        let signing = self.library.iter().filter(|(name, _)| name.contains("ecdsa_sign"));
        signing.map(|(_, cost)| cost).sum()
    }

    /// Functions outside libsecp256k1 without what they call, dearest first.
    pub(crate) fn dearest(&self) -> Vec<(&str, u64)> {
        let mut own: Vec<_> = self.own.iter().map(|(name, cost)| (&**name, *cost)).collect();
        own.sort_unstable_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        own
    }

    /// What this run did more than a shorter one: what both did once, such as boot, falls out.
    pub(crate) fn beyond(self, shorter: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(shorter.total),
            library: beyond(self.library, &shorter.library),
            own: beyond(self.own, &shorter.own),
        }
    }

    /// Reads a dump with one event and uncompressed names.
    fn parse(text: &str) -> Result<Self> {
        let mut profile = Self::default();
        let (mut function, mut called, mut is_call) = ("", "", false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = name;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line
                .starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first))
            {
                let cost = line.split_whitespace().nth(1).context("a line without a cost")?;
                let cost: u64 = cost.parse().with_context(|| format!("a cost: {line:?}"))?;
                if !is_call {
                    profile.total += cost;
                    if !of_library(function) {
                        *profile.own.entry(function.to_owned()).or_default() += cost;
                    }
                } else if called.starts_with(LIBRARY) && !of_library(function) {
                    *profile.library.entry(called.to_owned()).or_default() += cost;
                }
                is_call = false;
            }
        }
        Ok(profile)
    }
}

fn beyond(
    mut costs: BTreeMap<String, u64>,
    shorter: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    for (name, cost) in &mut costs {
        *cost = cost.saturating_sub(shorter.get(name).copied().unwrap_or_default());
    }
    costs.retain(|_, cost| *cost > 0);
    costs
}

fn of_library(function: &str) -> bool {
    function.starts_with(LIBRARY)
        || function.starts_with("secp256k1_")
        || CALLED_BACK.iter().any(|name| function.contains(name))
}

/// The thread that has signed most, among the dumps in a folder: others only test themselves.
pub(crate) fn read_signing_thread(folder: &Path) -> Result<Profile> {
    let most = read_most(folder, Profile::signing)?;
    ensure!(most.signing() > 0, "no thread has signed");
    Ok(most)
}

/// The thread with the most of something, among the dumps in a folder.
pub(crate) fn read_most(folder: &Path, of: impl Fn(&Profile) -> u64) -> Result<Profile> {
    let mut most = Profile::default();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(!text.contains("\nevents: Ir "), "callgrind counts more than instructions");
        let profile = Profile::parse(&text).with_context(|| path.display().to_string())?;
        if of(&profile) > of(&most) {
            most = profile;
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "version: 1\nevents: Ir\n\nfn=serve\n10 100\ncfn=rustsecp256k1_v0_ecdsa_sign\n\
                        calls=2 0\n11 5000\ncfn=copy\ncalls=1 0\n12 30\n\nfn=copy\n5 30\n\n\
                        fn=rustsecp256k1_v0_ecdsa_sign\n0 4000\ncfn=rustsecp256k1_v0_hash\ncalls=1 0\n\
                        0 1000\n\nfn=rustsecp256k1_v0_hash\n0 1000\n\ntotals: 5130\n";

    #[test]
    fn the_library_is_counted_once_and_apart() {
        let profile = Profile::parse(DUMP).unwrap();
        assert_eq!(profile.total, 5_130);
        assert_eq!(profile.library, [("rustsecp256k1_v0_ecdsa_sign".to_owned(), 5_000)].into());
        assert_eq!(profile.besides_library(), 130);
        assert_eq!(profile.dearest(), [("serve", 100), ("copy", 30)]);
    }

    #[test]
    fn what_both_runs_did_falls_out() {
        let shorter = Profile::parse(&DUMP.replace("10 100", "10 90")).unwrap();
        let profile = Profile::parse(DUMP).unwrap().beyond(&shorter);
        assert_eq!((profile.total, profile.besides_library()), (10, 10));
        assert_eq!(profile.dearest(), [("serve", 10)]);
    }

    #[test]
    fn the_thread_that_signed_most_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out-01"), DUMP.replace("5000", "50")).unwrap();
        std::fs::write(folder.path().join("out-02"), DUMP).unwrap();
        std::fs::write(folder.path().join("out-03"), DUMP.replace("5000", "500")).unwrap();
        assert_eq!(read_signing_thread(folder.path()).unwrap().signing(), 5_000);
    }

    #[test]
    fn a_folder_without_a_signing_thread_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out-01"), "events: Ir\nfn=main\n1 5\n").unwrap();
        assert!(read_signing_thread(folder.path()).is_err());
    }
}
