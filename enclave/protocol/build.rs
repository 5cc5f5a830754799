//! Compiles the contract with protox, so that nobody needs protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/sigil/enclave/v1/enclave.proto";
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    let generated = || tonic_prost_build::configure().bytes(".").build_transport(false);
    generated().build_server(false).compile_fds(descriptors.clone())?;

    // The server has the same messages, but reads and writes those of `Sign` itself.
    let server = PathBuf::from(std::env::var("OUT_DIR")?).join("server");
    std::fs::create_dir_all(&server)?;
    generated()
        .build_client(false)
        .extern_path(".sigil.enclave.v1", "crate::v1")
        .extern_path(".sigil.enclave.v1.SignBatch", "crate::wire::Raw")
        .extern_path(".sigil.enclave.v1.SignBatchResult", "crate::wire::Raw")
        .out_dir(server)
        .compile_fds(descriptors)?;
    Ok(())
}
