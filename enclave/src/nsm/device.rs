//! The Nitro Secure Module of the guest, `/dev/nsm`: one ioctl that takes a CBOR request and gives
//! a CBOR response. Structures and bounds: `linux/nsm.h`; messages: AWS's `nsm-api`.
#![allow(unsafe_code, reason = "the ioctl of /dev/nsm")]

use std::fs::File;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use zeroize::Zeroizing;

use super::{DocumentRequest, Nsm, NsmError};
use crate::kdf;
use crate::secret::Secret32;

/// `NSM_REQUEST_MAX_SIZE`.
const REQUEST_BYTES_MAX: usize = 0x1000;
/// `NSM_RESPONSE_MAX_SIZE`.
const RESPONSE_BYTES_MAX: usize = 0x3000;
const SALT: &[u8] = b"sigil/nsm/v1";
/// Random bytes of one answer below which something is wrong; AWS's module gives 256.
const RANDOM_BYTES_MIN: usize = 32;

/// `struct nsm_iovec`.
#[repr(C)]
struct Buffer {
    address: u64,
    length: u64,
}

/// `struct nsm_raw`.
#[repr(C)]
struct Message {
    request: Buffer,
    response: Buffer,
}

/// `NSM_IOCTL_RAW`.
const IOCTL_RAW: Opcode = opcode::read_write::<Message>(0x0A, 0);

/// The device.
#[derive(Debug)]
pub struct NsmDevice(File);

impl NsmDevice {
    /// Opens `/dev/nsm`.
    ///
    /// # Errors
    /// The guest has no such device.
    pub fn open() -> Result<Self, NsmError> {
        let file = File::options().read(true).write(true).open("/dev/nsm");
        file.map(Self).map_err(|error| NsmError(format!("/dev/nsm: {error}")))
    }

    fn call(&self, request: &[u8]) -> Result<Zeroizing<Vec<u8>>, NsmError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(NsmError("the request is too long".into()));
        }
        let mut response = Zeroizing::new(vec![0; RESPONSE_BYTES_MAX]);
        let mut message = Message {
            request: Buffer { address: request.as_ptr() as u64, length: request.len() as u64 },
            response: Buffer {
                address: response.as_mut_ptr() as u64,
                length: response.len() as u64,
            },
        };
        // SAFETY: the opcode is of this structure; both buffers outlive the call, and the driver
        // writes at most the length that is given for the second.
        let called = unsafe { ioctl(&self.0, Updater::<IOCTL_RAW, Message>::new(&mut message)) };
        called.map_err(|error| NsmError(format!("/dev/nsm: {error}")))?;
        let length = usize::try_from(message.response.length).unwrap_or(usize::MAX);
        response.truncate(length);
        Ok(response)
    }
}

impl Nsm for NsmDevice {
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        let response = self.call(&attestation_request(request))?;
        Ok(answer(&response, "Attestation", "document")?.to_vec())
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        let response = self.call(&random_request())?;
        let random = answer(&response, "GetRandom", "random")?;
        if random.len() < RANDOM_BYTES_MIN {
            return Err(NsmError("too few random bytes".into()));
        }
        let mut out = Secret32::zeroed().map_err(|full| NsmError(full.to_string()))?;
        let hashed = kdf::expand(&kdf::extract(SALT, random), &[], out.expose_secret_mut());
        hashed.map(|()| out).map_err(|_| NsmError("its random bytes cannot be hashed".into()))
    }
}

fn attestation_request(request: DocumentRequest<'_>) -> Vec<u8> {
    let DocumentRequest { user_data, nonce, public_key } = request;
    encode(|encoder| {
        encoder.map(1)?.str("Attestation")?.map(3)?;
        for (name, value) in
            [("user_data", user_data), ("nonce", nonce), ("public_key", public_key)]
        {
            encoder.str(name)?;
            match value {
                Some(value) => encoder.bytes(value)?,
                None => encoder.null()?,
            };
        }
        Ok(())
    })
}

fn random_request() -> Vec<u8> {
    encode(|encoder| encoder.str("GetRandom").map(drop))
}

type EncodeError = minicbor::encode::Error<std::convert::Infallible>;

fn encode(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError>) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to a vector cannot fail.
    let _ = write(&mut Encoder::new(&mut out));
    out
}

/// The bytes of `{variant: {field: bytes}}`, or what the module says instead.
fn answer<'a>(response: &'a [u8], variant: &str, field: &str) -> Result<&'a [u8], NsmError> {
    let malformed = |_| NsmError("its answer is malformed".into());
    let mut decoder = Decoder::new(response);
    if decoder.map().map_err(malformed)? != Some(1) {
        return Err(NsmError("its answer is malformed".into()));
    }
    let named = decoder.str().map_err(malformed)?;
    if named == "Error" && decoder.datatype().map_err(malformed)? == Type::String {
        let code = decoder.str().map_err(malformed)?;
        return Err(NsmError(format!("refused: {code}")));
    }
    if named != variant || decoder.map().map_err(malformed)? != Some(1) {
        return Err(NsmError("its answer is malformed".into()));
    }
    if decoder.str().map_err(malformed)? != field {
        return Err(NsmError("its answer is malformed".into()));
    }
    decoder.bytes().map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_is_the_kernels() {
        assert_eq!(size_of::<Message>(), 32);
        // _IOWR(0x0A, 0x0, struct nsm_raw): direction 3, size 32, magic 0x0A, number 0.
        assert_eq!(IOCTL_RAW, 0xC020_0A00);
    }

    /// The bytes that AWS's `nsm-api` sends (serde's externally tagged enums in CBOR).
    #[test]
    fn requests_are_as_aws_encodes_them() {
        assert_eq!(random_request(), b"\x69GetRandom");
        let request = attestation_request(DocumentRequest {
            user_data: Some(b"ab"),
            nonce: None,
            public_key: Some(b"c"),
        });
        let expected =
            b"\xa1\x6bAttestation\xa3\x69user_data\x42ab\x65nonce\xf6\x6apublic_key\x41c";
        assert_eq!(request, expected);
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let document = b"\xa1\x6bAttestation\xa1\x68document\x43xyz";
        assert_eq!(answer(document, "Attestation", "document").unwrap(), b"xyz");
        let error = answer(b"\xa1\x65Error\x6fInvalidArgument", "Attestation", "document");
        assert_eq!(error.unwrap_err().0, "refused: InvalidArgument");
        assert!(answer(document, "GetRandom", "random").is_err());
        for length in 0..document.len() {
            assert!(answer(&document[..length], "Attestation", "document").is_err(), "{length}");
        }
    }
}
