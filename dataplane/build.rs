//! Compiles the public contract with protox, so that nobody needs protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/signer/v1/signer.proto";
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    // For reflection, whose readers have no use for comments and places in the file.
    let mut plain = descriptors.clone();
    plain.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("signer.v1.bin"), plain.encode_to_vec())?;
    let hop = "proto/sigil/hop/v1/hop.proto";
    println!("cargo::rerun-if-changed={hop}");
    let between_members = protox::compile([hop], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .extern_path(".signer.v1", "crate::v1")
        .compile_fds(between_members)?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
