//! Builds the enclave with names for the folders of this machine taken out, and with nothing of its
//! environment that changes code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use sigil_image_authoring::image::Program;

use crate::images::build::executable;
use crate::repo;

const PROFILE: &str = "enclave";
/// What a build takes from its environment: where tools, crates and results are, how crates are
/// reached, how many jobs run. Everything else (compilers, flags, profiles, wrappers, search paths)
/// could change code and is not passed on.
const PASSED: [&str; 14] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_JOBS",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// The same, by their beginning.
const PASSED_PREFIXES: [&str; 5] =
    ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];

/// Where a build reads and writes.
pub(super) struct Folders {
    /// The checkout.
    pub(super) sources: PathBuf,
    /// Cargo's own folders; the machine's unless given.
    pub(super) cargo_home: Option<PathBuf>,
    pub(super) target: Option<PathBuf>,
}

impl Folders {
    /// This checkout, and the folders that cargo takes by itself.
    pub(super) fn of_checkout() -> Self {
        Self { sources: repo::root(), cargo_home: None, target: None }
    }

    fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let passed = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed));
        command.env_clear().envs(passed).env("LC_ALL", "C");
        command.current_dir(&self.sources).stderr(Stdio::inherit());
        command.envs(self.cargo_home.iter().map(|home| ("CARGO_HOME", home)));
        command.envs(self.target.iter().map(|target| ("CARGO_TARGET_DIR", target)));
        command
    }
}

/// Builds the program that is `/init` and returns its bytes, without symbols.
pub(super) fn enclave(program: Program, folders: &Folders) -> Result<Vec<u8>> {
    let package = match program {
        Program::Production => "sigil-enclave",
        Program::Insecure => "sigil-enclave-insecure",
    };
    let metadata = folders.metadata()?;
    let prefixes = prefixes(&metadata)?;
    let triple = host_triple()?;
    let mut command = folders.cargo();
    command.args(["build", "--locked", "--message-format", "json-render-diagnostics"]);
    command.args(["--profile", PROFILE, "--package", package, "--bin", package]);
    command.arg("--config").arg(rustflags(&triple, &prefixes));
    command.env(format!("CFLAGS_{}", triple.replace('-', "_")), cflags(&prefixes));
    let messages = output(&mut command)?;
    let built = executable(&messages, package)
        .with_context(|| format!("cargo built no binary {package}"))?;
    std::fs::read(&built).with_context(|| format!("reading {}", built.display()))
}

impl Folders {
    fn metadata(&self) -> Result<Value> {
        let mut command = self.cargo();
        command.args(["metadata", "--format-version", "1", "--locked"]);
        serde_json::from_str(&output(&mut command)?).context("cargo metadata")
    }
}

/// Folders that compilers would write into the program, and the names that take their place.
fn prefixes(metadata: &Value) -> Result<Vec<(String, &'static str)>> {
    let text = |key: &str| {
        metadata[key].as_str().with_context(|| format!("cargo metadata: {key}")).map(str::to_owned)
    };
    // Crates of a registry lie side by side in one folder, whose name has a hash of its address.
    let registries: BTreeSet<String> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|package| package["source"].is_string())
        .filter_map(|package| Path::new(package["manifest_path"].as_str()?).ancestors().nth(2))
        .map(|folder| folder.display().to_string())
        .collect();
    let mut prefixes =
        vec![(text("target_directory")?, "/target"), (text("workspace_root")?, "/sigil")];
    prefixes.extend(registries.into_iter().map(|folder| (folder, "/crates")));
    // Of two prefixes that fit, both compilers take the one that was named last.
    prefixes.sort_by_key(|(folder, _)| folder.len());
    Ok(prefixes)
}

/// Cargo joins these to the flags of `.cargo/config.toml`.
fn rustflags(triple: &str, prefixes: &[(String, &'static str)]) -> String {
    let flags: Vec<_> = prefixes
        .iter()
        .map(|(folder, name)| {
            Value::from(format!("--remap-path-prefix={folder}={name}")).to_string()
        })
        .collect();
    format!("target.{triple}.rustflags=[{}]", flags.join(","))
}

fn cflags(prefixes: &[(String, &'static str)]) -> String {
    let flags = prefixes.iter().map(|(folder, name)| format!("-ffile-prefix-map={folder}={name}"));
    flags.collect::<Vec<_>>().join(" ")
}

fn is_passed(variable: &str) -> bool {
    // Proxies have two spellings.
    let upper = variable.to_ascii_uppercase();
    let proxy = upper.ends_with("_PROXY") && PASSED.contains(&upper.as_str());
    proxy
        || PASSED.contains(&variable)
        || PASSED_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

fn host_triple() -> Result<String> {
    let text = repo::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// What decides the bytes beside the sources: the compilers, the linker, and the C library that is
/// linked in. Two machines that print the same here make the same image.
pub(super) fn tools() -> Result<Vec<String>> {
    let first = |program: &str, argument: &str| -> Result<String> {
        let text = repo::output(Command::new(program).arg(argument))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let library = PathBuf::from(first("cc", "-print-file-name=libc.a")?);
    let bytes =
        std::fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
    Ok(vec![
        first("rustc", "--version")?,
        first("cc", "--version")?,
        first("ld", "--version")?,
        format!("libc.a sha256:{}", super::sha256(&bytes)),
    ])
}

/// Like [`repo::output`], in the command's own folder.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_change_code_is_not_passed_on() {
        for name in ["RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO", "CFLAGS", "CC", "CPATH", "path"] {
            assert!(!is_passed(name), "{name}");
        }
        for name in ["PATH", "CARGO_TARGET_DIR", "https_proxy", "CARGO_REGISTRIES_X_INDEX"] {
            assert!(is_passed(name), "{name}");
        }
    }

    #[test]
    fn the_longer_folder_wins_and_every_registry_is_named() {
        let metadata = serde_json::json!({
            "target_directory": "/a/b/target",
            "workspace_root": "/a/b",
            "packages": [
                { "source": null, "manifest_path": "/a/b/enclave/Cargo.toml" },
                { "source": "registry", "manifest_path": "/c/src/index-1/x-1.0/Cargo.toml" },
                { "source": "registry", "manifest_path": "/c/src/index-1/y-2.0/Cargo.toml" },
            ],
        });
        let prefixes = prefixes(&metadata).unwrap();
        let expected =
            [("/a/b", "/sigil"), ("/a/b/target", "/target"), ("/c/src/index-1", "/crates")];
        assert_eq!(prefixes, expected.map(|(folder, name)| (folder.to_owned(), name)));
        assert_eq!(
            rustflags("t", &prefixes[..1]),
            r#"target.t.rustflags=["--remap-path-prefix=/a/b=/sigil"]"#
        );
    }
}
