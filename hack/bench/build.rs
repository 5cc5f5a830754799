//! Compiles the public contract for the load generator and the baseline server.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "../../dataplane/proto";
    let proto = format!("{folder}/signer/v1/signer.proto");
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], [folder])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
