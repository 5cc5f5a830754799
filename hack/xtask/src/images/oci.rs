//! One-layer OCI image archives (OCI image layout 1.0.0 in a tar), written deterministically.

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Neither root nor a user of the node: Kubernetes' *restricted* profile asks for it.
const USER: u32 = 65_532;

/// A file of the image, at its root.
pub(super) struct Entry {
    name: String,
    mode: u32,
    data: Vec<u8>,
}

/// An image that starts one static binary and holds nothing else.
pub(super) struct Image {
    pub(super) entrypoint: String,
    pub(super) entries: Vec<Entry>,
}

impl Entry {
    pub(super) fn executable(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), mode: 0o555, data }
    }

    pub(super) fn data(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), mode: 0o444, data }
    }
}

impl Image {
    /// The archive and its manifest's digest.
    pub(super) fn archive(mut self, reference: &str) -> Result<(String, Vec<u8>)> {
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        let layer = tar(self.entries.iter().map(|e| (e.name.as_str(), e.mode, e.data.as_slice())))?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "config": { "Entrypoint": [self.entrypoint], "User": format!("{USER}:{USER}") },
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference,
        });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;
        let blob =
            |data: &[u8]| format!("blobs/sha256/{}", const_hex::encode(Sha256::digest(data)));
        let (layer_at, config_at, manifest_at) = (blob(&layer), blob(&config), blob(&manifest));
        let archive = tar([
            ("oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
            ("index.json", 0o444, index.as_slice()),
            (config_at.as_str(), 0o444, config.as_slice()),
            (manifest_at.as_str(), 0o444, manifest.as_slice()),
            (layer_at.as_str(), 0o444, layer.as_slice()),
        ])?;
        Ok((digest(&manifest), archive))
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", const_hex::encode(Sha256::digest(data)))
}

fn descriptor(media_type: &str, data: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(data), "size": data.len() })
}

/// A ustar archive with nothing in it but names, modes and bytes.
fn tar<'a>(entries: impl IntoIterator<Item = (&'a str, u32, &'a [u8])>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, data) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(data.len())?);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, data)?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(order: [&str; 2]) -> Image {
        let entries = order.map(|name| Entry::data(name, name.as_bytes().to_vec())).into();
        Image { entrypoint: "/a".to_owned(), entries }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let one = image(["a", "b"]).archive("x:dev").unwrap();
        let two = image(["b", "a"]).archive("x:dev").unwrap();
        assert_eq!(one, two);
        assert_ne!(one.1, image(["a", "c"]).archive("x:dev").unwrap().1);
    }

    #[test]
    fn every_blob_is_named_by_its_digest() {
        let (manifest, archive) = image(["a", "b"]).archive("x:dev").unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(hex, const_hex::encode(Sha256::digest(&data)));
            }
            names.push(name);
        }
        assert_eq!(names.len(), 5);
        assert!(names.contains(&manifest.replace("sha256:", "blobs/sha256/")));
    }
}
