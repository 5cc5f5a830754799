//! AF_VSOCK: the production listener and the boot heartbeat. The kernel's address structure is the
//! only thing that the socket library does not know.
#![allow(unsafe_code, reason = "the layout of struct sockaddr_vm is given to the socket library")]

use std::io;
use std::mem::size_of;
use std::os::fd::OwnedFd;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use sigil_enclave_protocol::bounds::{ENCLAVE_PORT, HEARTBEAT_BYTE, HEARTBEAT_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;

/// Connections that wait for `accept`.
const BACKLOG: i32 = 128;
/// Size of `struct sockaddr_vm`.
const ADDRESS_BYTES: SocketAddrLen = 16;
const _: () = assert!(size_of::<VsockAddress>() == 16);
/// `VMADDR_CID_ANY`.
const CID_ANY: u32 = u32::MAX;

/// `struct sockaddr_vm` of `linux/vm_sockets.h`.
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl VsockAddress {
    fn new(cid: u32, port: u32) -> Self {
        let family = AddressFamily::VSOCK.as_raw();
        Self { family, reserved: 0, port, cid, flags: 0, zero: [0; 3] }
    }
}

// SAFETY: the pointer and length describe a live `sockaddr_vm`, which is plain data.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f((&raw const *self).cast(), ADDRESS_BYTES)
    }
}

/// Listens on [`ENCLAVE_PORT`] for any peer.
///
/// # Errors
/// The kernel has no vsock or the port is taken.
pub fn listener() -> io::Result<OwnedFd> {
    let socket = stream_socket()?;
    bind(&socket, &VsockAddress::new(CID_ANY, ENCLAVE_PORT))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Tells the parent that the enclave listens, as Nitro expects: one byte, which is sent back.
///
/// # Errors
/// Nobody answers. That is worth a line on the console and nothing more.
pub async fn heartbeat(parent_cid: u32) -> io::Result<()> {
    let socket = stream_socket()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    match connect(&socket, &VsockAddress::new(parent_cid, HEARTBEAT_PORT)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    // A connection that is still being made becomes writable when it is, or fails the write.
    let mut stream = Stream::new(socket)?;
    stream.write_all(&[HEARTBEAT_BYTE]).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    Ok(())
}

fn stream_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_has_the_layout_of_the_kernel() {
        assert_eq!(size_of::<VsockAddress>(), size_of::<libc::sockaddr_vm>());
        let ours = VsockAddress::new(3, 9000);
        assert_eq!(i32::from(ours.family), libc::AF_VSOCK);
        assert_eq!(
            std::mem::offset_of!(VsockAddress, port),
            std::mem::offset_of!(libc::sockaddr_vm, svm_port)
        );
        assert_eq!(
            std::mem::offset_of!(VsockAddress, cid),
            std::mem::offset_of!(libc::sockaddr_vm, svm_cid)
        );
        assert_eq!((ours.port, ours.cid, CID_ANY), (9000, 3, libc::VMADDR_CID_ANY));
    }
}
