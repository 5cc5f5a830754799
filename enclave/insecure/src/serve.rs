//! Process mode: the enclave's code with a software NSM and a unix socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sigil_enclave::boot::{Parts, start};
use sigil_enclave::nsm::Nsm;
use sigil_enclave::rng::RngSource;
use sigil_enclave_client::EnclaveAddress;

use crate::nsm::SoftwareNsm;

/// Runs until the process ends. Prints one line to standard output when it listens.
///
/// # Errors
/// The pins cannot be read or are for production, or the address cannot be listened on.
pub fn run(pins: &Path, listen: &EnclaveAddress, workers: Option<u16>) -> anyhow::Result<()> {
    let pins_cbor =
        std::fs::read(pins).with_context(|| format!("read the pins {}", pins.display()))?;
    let executable = std::fs::read("/proc/self/exe").context("read the own executable")?;
    let nsm = Arc::new(SoftwareNsm::new(&executable, &pins_cbor)?);
    let parts = process_parts(pins_cbor, nsm, listen, workers)
        .with_context(|| format!("listen on {listen}"))?;
    let running = start(parts).context("start the enclave")?;
    println!("sigil-enclave-insecure: boot {} listens on {listen}", running.boot_id);
    running.wait();
    anyhow::bail!("the control thread ended")
}

/// The parts of an enclave in this process with a given NSM.
///
/// # Errors
/// The address cannot be listened on.
pub fn process_parts(
    pins_cbor: Vec<u8>,
    nsm: Arc<dyn Nsm>,
    listen: &EnclaveAddress,
    workers: Option<u16>,
) -> io::Result<Parts> {
    Ok(Parts {
        pins: pins_cbor,
        nsm,
        listener: listener(listen)?,
        rng_source: || RngSource::Software,
        insecure: true,
        workers,
        heartbeat: false,
    })
}

/// Listens on a unix socket. A socket file that nobody listens on any more is replaced.
fn listener(address: &EnclaveAddress) -> io::Result<OwnedFd> {
    let address = match address {
        EnclaveAddress::UnixPath(path) => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                }
                _ => {}
            }
            SocketAddr::from_pathname(path)?
        }
        EnclaveAddress::UnixAbstract(name) => SocketAddr::from_abstract_name(name)?,
        EnclaveAddress::Vsock { .. } | EnclaveAddress::VhostVsock { .. } => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "process mode listens on a unix socket: use unix:PATH or unix:@NAME",
            ));
        }
    };
    UnixListener::bind_addr(&address).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = EnclaveAddress::UnixPath(folder.path().join("e.sock"));
        let first = listener(&address).unwrap();
        assert_eq!(listener(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listener(&address).unwrap();
    }

    #[test]
    fn vsock_is_refused_with_the_way_out() {
        let error = listener(&"vsock://3:5000".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("unix:PATH"), "{error}");
    }
}
