//! The top level of the repository, and files that may not exist.

/// Folders of the top level; `docs/ARCHITECTURE.md` says what is in each.
const FOLDERS: [&str; 8] =
    ["charts", "config", "crds", "dataplane", "docs", "enclave", "hack", "operator"];

/// Files of the top level beside dot files.
const FILES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

pub(super) fn check(files: &[String]) -> Vec<String> {
    files.iter().filter_map(|file| misplaced(file)).collect()
}

fn misplaced(file: &str) -> Option<String> {
    let top = file.split('/').next().unwrap_or(file);
    let known = top.starts_with('.')
        || if file.contains('/') { FOLDERS.contains(&top) } else { FILES.contains(&top) };
    if !known {
        return Some(format!("{file}: the top level holds {FOLDERS:?} and {FILES:?} only"));
    }
    if file.ends_with("/mod.rs") {
        return Some(format!("{file}: name it like its folder, `foo.rs` beside `foo/`"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named() {
        let files = ["README.md", ".ci/run", "enclave/src/lib.rs"].map(str::to_owned);
        assert!(check(&files).is_empty());
        for file in ["notes.md", "src/main.rs", "enclave/src/foo/mod.rs"] {
            assert_eq!(check(&[file.to_owned()]).len(), 1, "{file}");
        }
    }
}
