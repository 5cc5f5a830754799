//! Writes `crds/generated/*.yaml` and the chart's copies of them.

use std::path::Path;
use std::{fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["generated", "../charts/sigil/files/crds"] {
        write_all(&crate_dir.join(folder))?;
    }
    Ok(())
}

fn write_all(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(folder)?;
    for (name, content) in sigil_crds::generate::files()? {
        fs::write(folder.join(name), content)
            .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
    }
    Ok(())
}
