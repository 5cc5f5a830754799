//! Enclave image files: builds the enclave so that its bytes depend on the sources and the tools
//! alone (decision 12), and puts it into an EIF.

mod build;
mod reproduce;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use sigil_image_authoring::eif::{Arch, cpio, parse};
use sigil_image_authoring::image::{self, Program};
use sigil_image_authoring::pins_yaml;

use crate::images::insecure_marker;
use crate::repo;
use build::Folders;

/// What the ramdisk of a base image holds: no shell, no package manager, nothing but the enclave and
/// the empty file that it starts with where there is no console.
const ENTRIES: [&str; 2] = ["dev/null", "init"];
/// Bytes of a production image beside its kernel.
const BYTES_BESIDE_KERNEL_MAX: usize = 8 << 20;

/// Options of `cargo xtask eif`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for base.eif, and with --pins for pinned.eif and measurements.json.
    #[arg(long, value_name = "DIR", required_unless_present = "verify_reproducible")]
    out: Option<PathBuf>,
    /// The kernel; without it the one that `hack/qemu kernel` builds.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// What to pin (pins.yaml), as `sigil-dataplane ctl pin-image --base` does.
    #[arg(long, value_name = "FILE", conflicts_with = "verify_reproducible")]
    pins: Option<PathBuf>,
    /// The development enclave instead of the production one.
    #[arg(long)]
    insecure: bool,
    /// Build base.eif twice, in different folders with empty caches, and compare the bytes; the
    /// kernel too, unless --kernel gives one.
    #[arg(long)]
    verify_reproducible: bool,
}

impl Args {
    fn program(&self) -> Program {
        if self.insecure { Program::Insecure } else { Program::Production }
    }
}

/// Builds; prints the tools that decide the bytes, and name, SHA-256 and size of each file.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.verify_reproducible {
        return reproduce::run(args);
    }
    let out = args.out.as_deref().context("--out: expected a folder")?;
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let enclave = build::enclave(args.program(), &Folders::of_checkout())?;
    for tool in build::tools()? {
        println!("{tool}");
    }
    let kernel = read(&kernel(args.kernel.as_deref(), &repo::root())?)?;
    let base = assemble(&kernel, &enclave, args.program())?;
    write(&out.join("base.eif"), &base)?;
    if let Some(pins) = &args.pins {
        let pinned = image::pin(&base, &pins_yaml::read(pins)?)?;
        write(&out.join("pinned.eif"), &pinned.eif)?;
        let measurements = pinned.measurements.to_json()?;
        write(&out.join("measurements.json"), measurements.as_bytes())?;
    }
    Ok(())
}

/// The base image, and what must be true of each.
fn assemble(kernel: &[u8], enclave: &[u8], program: Program) -> Result<Vec<u8>> {
    let base = image::base(Arch::of_host(), kernel, enclave, program)?;
    let beside = base.len() - kernel.len();
    if program == Program::Production && beside > BYTES_BESIDE_KERNEL_MAX {
        bail!(
            "the image holds {beside} bytes beside its kernel, at most {BYTES_BESIDE_KERNEL_MAX}"
        );
    }
    let listed = entries(&base)?;
    if listed != ENTRIES {
        bail!("the image holds {listed:?}, expected {ENTRIES:?}");
    }
    match (program, insecure_marker(&base)) {
        (Program::Production, Some(marker)) => {
            bail!("the production image holds {marker}, which only the development enclave may")
        }
        (Program::Insecure, None) => bail!("the development image does not hold its marker"),
        _ => Ok(base),
    }
}

/// Names of everything in the ramdisks of an image.
fn entries(image: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for ramdisk in parse(image)?.ramdisks {
        names.extend(cpio::read(ramdisk)?.into_iter().map(|entry| entry.name.to_owned()));
    }
    Ok(names)
}

/// Path of the kernel: the given one, or the one that `hack/qemu kernel` builds and prints.
fn kernel(given: Option<&Path>, root: &Path) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_path_buf());
    }
    let mut command = Command::new(root.join("hack/qemu"));
    command.arg("kernel").stderr(std::process::Stdio::inherit());
    let printed = repo::output(&mut command)?;
    let path = printed.lines().last().unwrap_or_default();
    if path.is_empty() {
        bail!("hack/qemu kernel printed no path; give the kernel with --kernel FILE");
    }
    Ok(PathBuf::from(path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    println!("{} sha256:{} {} bytes", path.display(), sha256(bytes), bytes.len());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn sha256(bytes: &[u8]) -> String {
    const_hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_only_where_it_belongs_and_nothing_beside_init() {
        let marked = b"\x7fELF SIGIL-INSECURE-DO-NOT-USE".as_slice();
        let plain = b"\x7fELF".as_slice();
        let base = assemble(b"kernel", plain, Program::Production).unwrap();
        assert_eq!(entries(&base).unwrap(), ENTRIES);
        assert!(assemble(b"kernel", marked, Program::Insecure).is_ok());
        let error = assemble(b"kernel", marked, Program::Production).unwrap_err();
        assert!(error.to_string().contains("SIGIL-INSECURE-DO-NOT-USE"), "{error}");
        assert!(assemble(b"kernel", plain, Program::Insecure).is_err());
        assert!(
            assemble(marked, plain, Program::Production).is_err(),
            "the kernel is searched too"
        );
    }

    #[test]
    fn an_image_that_grew_too_large_is_refused() {
        let large = vec![0; BYTES_BESIDE_KERNEL_MAX];
        let error = assemble(b"kernel", &large, Program::Production).unwrap_err();
        assert!(error.to_string().contains("8388608"), "{error}");
    }
}
