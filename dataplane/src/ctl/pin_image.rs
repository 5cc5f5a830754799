//! `ctl pin-image`: pins an enclave and measures the result. No compiler, no network.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sigil_image_authoring::measurements::Measurements;
use sigil_image_authoring::pins_yaml;

use super::verify_attestation::print;

/// Arguments of `ctl pin-image`.
#[derive(clap::Args)]
pub struct Args {
    /// Development: the enclave executable that will run as a process with these pins.
    #[arg(long, value_name = "EXECUTABLE")]
    process: PathBuf,
    /// What to pin, written by a person (pins.yaml).
    #[arg(long, value_name = "FILE")]
    pins: PathBuf,
    /// Folder for pins.cbor and measurements.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes both files and prints the measurements.
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
    let pins = pins_yaml::read(&args.pins)?;
    if !pins.insecure {
        bail!("pins: insecure: an enclave that runs as a process needs `insecure: true`");
    }
    let executable =
        std::fs::read(&args.process).with_context(|| args.process.display().to_string())?;
    let pins = pins.encode()?;
    let json = Measurements::of_process(&executable, &pins)?.to_json()?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    replace(&args.out.join("pins.cbor"), &pins)?;
    replace(&args.out.join("measurements.json"), json.as_bytes())?;
    Ok(json)
}

/// Whole or not at all: a reader never sees half a file.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let half = path.with_extension("new");
    std::fs::write(&half, bytes)
        .and_then(|()| std::fs::rename(&half, path))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use sigil_enclave_image::Pins;
    use sigil_enclave_image::measure::process;

    use super::*;

    const YAML: &str = r#"
app: demo
keyspaces:
  - prefix: ""
    kmsKeyArns: ["arn:aws:kms:us-east-1:111122223333:key/a"]
    region: us-east-1
    host: kms.us-east-1.amazonaws.com
tlsRoots: [root.der]
attestationRoot: root.der
parentCid: 3
insecure: true
"#;

    fn in_folder(folder: &Path, yaml: &str) -> anyhow::Result<String> {
        std::fs::write(folder.join("root.der"), sigil_attestation::TrustRoot::aws().der()).unwrap();
        std::fs::write(folder.join("enclave"), b"code").unwrap();
        std::fs::write(folder.join("pins.yaml"), yaml).unwrap();
        pin(&Args {
            process: folder.join("enclave"),
            pins: folder.join("pins.yaml"),
            out: folder.join("image"),
        })
    }

    #[test]
    fn both_files_are_written_and_agree() {
        let folder = tempfile::tempdir().unwrap();
        let printed = in_folder(folder.path(), YAML).unwrap();
        let image = folder.path().join("image");
        let pins = std::fs::read(image.join("pins.cbor")).unwrap();
        let json = std::fs::read_to_string(image.join("measurements.json")).unwrap();
        assert_eq!(json, printed);
        assert_eq!(std::fs::read_dir(image).unwrap().count(), 2, "nothing half-written stays");
        assert_eq!(Pins::decode(&pins).unwrap().app, "demo");
        let measured = Measurements::from_json(&json).unwrap();
        let expected = process(b"code", &pins);
        assert_eq!((measured.pcr0, measured.pcr2), (expected.pcr0, expected.pcr2));
        assert_eq!(in_folder(folder.path(), YAML).unwrap(), printed, "repeatable");
    }

    #[test]
    fn errors_name_field_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = |yaml: &str| format!("{:#}", in_folder(folder.path(), yaml).unwrap_err());
        assert!(error(&YAML.replace("insecure: true", "insecure: false")).contains("insecure"));
        assert!(error(&YAML.replace("app: demo", "app: Demo")).contains("app"));
        assert!(error("nonsense").contains("pins.yaml"));
        assert!(!folder.path().join("image").exists(), "nothing is written");
        std::fs::write(folder.path().join("pins.yaml"), YAML).unwrap();
        let absent = folder.path().join("absent");
        let args = Args {
            process: absent.clone(),
            pins: folder.path().join("pins.yaml"),
            out: folder.path().join("image"),
        };
        assert!(format!("{:#}", pin(&args).unwrap_err()).contains(&absent.display().to_string()));
    }
}
