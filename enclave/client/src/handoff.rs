//! What the launcher hands to `serve` over an abstract unix socket: which boot, its token, where it
//! listens. The connection stays open as long as that boot lives. Format: `docs/formats.md`.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::address::EnclaveAddress;
use sigil_enclave_protocol::handshake::{BootId, ClaimToken};

const MAGIC: &[u8; 4] = b"SGH1";
const FIXED_BYTES: usize = 4 + 16 + 32 + 2;
/// Bytes of the address text: a unix socket path is at most 108 bytes long.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// A claimed enclave.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// The boot that was claimed.
    pub boot_id: BootId,
    /// Its token.
    pub token: ClaimToken,
    /// Where it listens.
    pub address: EnclaveAddress,
}

impl Handoff {
    /// Sends the frame.
    ///
    /// # Errors
    /// The stream fails, or the address is longer than [`ADDRESS_BYTES_MAX`].
    pub async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        let address = self.address.to_string();
        let length = u16::try_from(address.len())
            .ok()
            .filter(|length| usize::from(*length) <= ADDRESS_BYTES_MAX)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "address too long"))?;
        let mut frame = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + address.len()));
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&self.boot_id.0);
        frame.extend_from_slice(self.token.expose_secret());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(address.as_bytes());
        stream.write_all(&frame).await?;
        stream.flush().await
    }

    /// Receives the frame.
    ///
    /// # Errors
    /// The stream fails or carries something else.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Self> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut fixed = Zeroizing::new([0; FIXED_BYTES]);
        stream.read_exact(&mut fixed[..]).await?;
        if &fixed[..4] != MAGIC {
            return Err(bad("not a hand-off frame"));
        }
        let mut boot_id = BootId([0; 16]);
        boot_id.0.copy_from_slice(&fixed[4..20]);
        let mut token = Zeroizing::new([0; 32]);
        token.copy_from_slice(&fixed[20..52]);
        let length = usize::from(u16::from_be_bytes([fixed[52], fixed[53]]));
        if length > ADDRESS_BYTES_MAX {
            return Err(bad("address too long"));
        }
        let mut address = vec![0; length];
        stream.read_exact(&mut address).await?;
        let address = String::from_utf8(address).map_err(|_| bad("address is not text"))?;
        let address = address.parse().map_err(|_| bad("unknown address form"))?;
        Ok(Self { boot_id, token: ClaimToken::new(*token), address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_reads_back_and_its_length_is_bounded() {
        let handoff = Handoff {
            boot_id: BootId([1; 16]),
            token: ClaimToken::new([2; 32]),
            address: "unix:@sigil-enclave".parse().unwrap(),
        };
        let mut wire = Vec::new();
        handoff.write(&mut wire).await.unwrap();
        let read = Handoff::read(&mut wire.as_slice()).await.unwrap();
        assert_eq!(read.boot_id, handoff.boot_id);
        assert_eq!(read.token.expose_secret(), handoff.token.expose_secret());
        assert_eq!(read.address, handoff.address);
        for (at, value) in [(0, b'X'), (52, 0xff)] {
            let mut bad = wire.clone();
            bad[at] = value;
            assert!(Handoff::read(&mut bad.as_slice()).await.is_err(), "byte {at}");
        }
        assert!(Handoff::read(&mut &wire[..wire.len() - 1]).await.is_err());
    }
}
