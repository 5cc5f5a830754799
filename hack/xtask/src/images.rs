//! OCI archives from static binaries, without a container engine. The same binaries give the same
//! bytes: entries are sorted, times are zero, nothing of the machine gets in.

pub(crate) mod build;
mod oci;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use oci::{Entry, Image};

/// Options of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the archives.
    #[arg(long)]
    out: PathBuf,
    /// Pins of the development enclave (pins.yaml). Without it `sigil-enclave-insecure` is left out.
    #[arg(long)]
    pins: Option<PathBuf>,
    /// Cargo profile: `dev` shares the build of the tests, `release` is what one ships.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Tag of every image.
    #[arg(long, default_value = "dev")]
    tag: String,
}

/// Images with the one binary that each starts.
const SINGLE: [(&str, &str); 3] = [
    ("sigil-operator", "sigil-operator"),
    ("sigil-dataplane", "sigil-dataplane"),
    ("devkms", "devkms"),
];
const INSECURE: &str = "sigil-enclave-insecure";
const LAUNCHER: &str = "sigil-launcher";
/// What stands in the development enclave and in no production image: its marker, and the name of
/// the attestation root whose key everybody has.
const INSECURE_MARKERS: [&str; 2] = ["SIGIL-INSECURE-DO-NOT-USE", "sigil-test-root-DO-NOT-USE"];

/// Builds every image and prints reference, digest and size of each.
pub(crate) fn run(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    let stage = args.out.join("stage");
    let mut packages: Vec<_> = SINGLE.iter().map(|(package, _)| *package).collect();
    packages.extend([LAUNCHER, INSECURE]);
    let binaries = build::stripped(&packages, &args.profile, &stage)?;
    for (name, binary) in SINGLE {
        let program = read(&binaries.join(binary))?;
        let production = name != "devkms";
        if let Some(marker) = insecure_marker(&program).filter(|_| production) {
            anyhow::bail!("{name}: holds {marker}, which only the development enclave may");
        }
        let entries = vec![Entry::executable(binary, program)];
        write(args, name, Image { entrypoint: format!("/{binary}"), entries })?;
    }
    if let Some(pins) = &args.pins {
        let entries = insecure(pins, &binaries, &stage)?;
        write(args, INSECURE, Image { entrypoint: format!("/{LAUNCHER}"), entries })?;
    }
    Ok(())
}

/// Launcher, enclave, pins and measurements. The measurement is taken of the very bytes that go
/// into the image.
fn insecure(pins: &Path, binaries: &Path, stage: &Path) -> Result<Vec<Entry>> {
    build::pin(&binaries.join("sigil-dataplane"), &binaries.join(INSECURE), pins, stage)?;
    Ok(vec![
        Entry::executable(LAUNCHER, read(&binaries.join(LAUNCHER))?),
        Entry::executable(INSECURE, read(&binaries.join(INSECURE))?),
        Entry::data("pins.cbor", read(&stage.join("pins.cbor"))?),
        Entry::data("measurements.json", read(&stage.join("measurements.json"))?),
    ])
}

fn write(args: &Args, name: &str, image: Image) -> Result<()> {
    let reference = format!("sigil.dev/{name}:{}", args.tag);
    let path = args.out.join(format!("{name}.tar"));
    let (digest, archive) = image.archive(&reference)?;
    std::fs::write(&path, &archive).with_context(|| format!("writing {}", path.display()))?;
    println!("{reference} {digest} {} bytes {}", archive.len(), path.display());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The first of [`INSECURE_MARKERS`] in these bytes.
pub(crate) fn insecure_marker(program: &[u8]) -> Option<&'static str> {
    let holds = |marker: &&str| program.windows(marker.len()).any(|at| at == marker.as_bytes());
    INSECURE_MARKERS.into_iter().find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_marker_of_the_development_enclave_is_found() {
        assert_eq!(insecure_marker(b"\x7fELF and SIGIL-INSECURE-DO-NOT-US"), None);
        for marker in INSECURE_MARKERS {
            let program = [b"\x7fELF".as_slice(), marker.as_bytes(), b"more"].concat();
            assert_eq!(insecure_marker(&program), Some(marker));
        }
    }

    #[test]
    fn the_test_roots_certificate_is_found() {
        let certificate = include_bytes!("../../../enclave/insecure/testdata/root.der");
        assert_eq!(insecure_marker(certificate), Some("sigil-test-root-DO-NOT-USE"));
    }
}
