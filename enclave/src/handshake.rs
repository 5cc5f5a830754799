//! The enclave's side of the handshake: who may connect, and for what.

use std::io;
use std::sync::{Mutex, PoisonError};

use sigil_enclave_protocol::bounds::HANDSHAKE_TIME_MAX;
use sigil_enclave_protocol::handshake::{
    BootId, ClaimToken, Hello, PROOF_BYTES, Proof, Purpose, Refusal, Verdict,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::rng;

/// Keeps the claim of this boot.
#[derive(Debug)]
pub struct Door {
    boot_id: BootId,
    workers: u16,
    token: Mutex<Option<ClaimToken>>,
}

/// What an accepted connection is for, its worker, and what it holds while it is open; nothing after
/// a claim or a refusal.
pub type Admitted<P> = Option<(Purpose, u16, P)>;

impl Door {
    /// The door of an enclave with `workers` signing workers that nobody has claimed.
    pub fn new(boot_id: BootId, workers: u16) -> Self {
        Self { boot_id, workers, token: Mutex::new(None) }
    }

    /// Runs the handshake. `None`: the connection ends here, as a claim does. `room` is asked once
    /// the caller has proved itself: it names a worker and gives a place, or says why there is none.
    ///
    /// # Errors
    /// The stream fails or the peer is too slow; the connection is of no use.
    pub async fn admit<S: AsyncRead + AsyncWrite + Unpin, P>(
        &self,
        stream: &mut S,
        room: impl FnOnce(Purpose) -> Result<(u16, P), Refusal>,
    ) -> io::Result<Admitted<P>> {
        let nonce = rng::public_bytes().map_err(io::Error::other)?;
        let hello = Hello { boot_id: self.boot_id, nonce };
        let work = async {
            stream.write_all(&hello.encode()).await?;
            let mut frame = [0; PROOF_BYTES];
            stream.read_exact(&mut frame).await?;
            let (verdict, admitted) = match self.judge(&hello, &frame, room) {
                Ok(judged) => judged,
                Err(refusal) => (Verdict::Refused(refusal), None),
            };
            stream.write_all(&*verdict.encode()).await?;
            Ok(admitted)
        };
        timeout(HANDSHAKE_TIME_MAX, work).await?
    }

    fn judge<P>(
        &self,
        hello: &Hello,
        frame: &[u8; PROOF_BYTES],
        room: impl FnOnce(Purpose) -> Result<(u16, P), Refusal>,
    ) -> Result<(Verdict, Admitted<P>), Refusal> {
        let proof = Proof::decode(frame).ok_or(Refusal::Malformed)?;
        let worker_count = self.workers;
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if proof.purpose == Purpose::Claim {
            if token.is_some() {
                return Err(Refusal::AlreadyClaimed);
            }
            // Without randomness there is no token; the peer may try again.
            let mut fresh = Zeroizing::new([0; 32]);
            rng::kernel(&mut *fresh).map_err(|_| Refusal::TooMany)?;
            let fresh = ClaimToken::new(*fresh);
            *token = Some(fresh.clone());
            let verdict = Verdict::Accepted { worker_index: 0, worker_count, token: Some(fresh) };
            return Ok((verdict, None));
        }
        let token = token.as_ref().ok_or(Refusal::NotClaimed)?;
        if !proof.proves(hello, token) {
            return Err(Refusal::WrongProof);
        }
        let (worker_index, place) = room(proof.purpose)?;
        let verdict = Verdict::Accepted { worker_index, worker_count, token: None };
        Ok((verdict, Some((proof.purpose, worker_index, place))))
    }
}

#[cfg(test)]
mod tests {
    use sigil_enclave_client::connect::{HandshakeError, claim, connect};
    use tokio::io::duplex;

    use super::*;

    /// On worker 2, with room for one tunnel.
    fn room(purpose: Purpose) -> Result<(u16, ()), Refusal> {
        match purpose {
            Purpose::Tunnel(id) if id != [5; 16] => Err(Refusal::UnknownUnlock),
            _ => Ok((2, ())),
        }
    }

    fn door() -> Door {
        Door::new(BootId([1; 16]), 4)
    }

    async fn claimed(door: &Door) -> ClaimToken {
        let (mut ours, mut theirs) = duplex(256);
        let (admitted, claim) = tokio::join!(door.admit(&mut ours, room), claim(&mut theirs));
        assert!(admitted.unwrap().is_none(), "a claim ends the connection");
        claim.unwrap().1
    }

    async fn try_connect(
        door: &Door,
        purpose: Purpose,
        token: &ClaimToken,
    ) -> Result<u16, HandshakeError> {
        let (mut ours, mut theirs) = duplex(256);
        let (admitted, connected) =
            tokio::join!(door.admit(&mut ours, room), connect(&mut theirs, purpose, token));
        let connected = connected?;
        assert_eq!(admitted.unwrap().unwrap().0, purpose);
        assert_eq!((connected.hello.boot_id, connected.worker_count), (BootId([1; 16]), 4));
        Ok(connected.worker_index)
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, HandshakeError>) -> Refusal {
        match result.unwrap_err() {
            HandshakeError::Refused(refusal) => refusal,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn the_claimant_connects() {
        let door = door();
        let token = claimed(&door).await;
        assert_eq!(try_connect(&door, Purpose::Rpc, &token).await.unwrap(), 2);
        assert_eq!(try_connect(&door, Purpose::Tunnel([5; 16]), &token).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_second_claim_is_refused() {
        let door = door();
        let token = claimed(&door).await;
        let (mut ours, mut theirs) = duplex(256);
        let (_, second) = tokio::join!(door.admit(&mut ours, room), claim(&mut theirs));
        assert_eq!(refusal(second), Refusal::AlreadyClaimed);
        assert!(try_connect(&door, Purpose::Rpc, &token).await.is_ok(), "the first one holds");
    }

    #[tokio::test]
    async fn an_unclaimed_or_wrongly_proved_connection_is_refused() {
        let door = door();
        let wrong = ClaimToken::new([3; 32]);
        assert_eq!(refusal(try_connect(&door, Purpose::Rpc, &wrong).await), Refusal::NotClaimed);
        let token = claimed(&door).await;
        assert_eq!(refusal(try_connect(&door, Purpose::Rpc, &wrong).await), Refusal::WrongProof);
        let tunnel = Purpose::Tunnel([6; 16]);
        assert_eq!(refusal(try_connect(&door, tunnel, &token).await), Refusal::UnknownUnlock);
        assert_eq!(refusal(try_connect(&door, tunnel, &wrong).await), Refusal::WrongProof);
    }

    #[tokio::test]
    async fn a_replayed_proof_is_refused() {
        let door = door();
        let token = claimed(&door).await;
        let stale = Hello { boot_id: BootId([1; 16]), nonce: [0; 32] };
        let (mut ours, mut theirs) = duplex(256);
        let peer = async {
            theirs.write_all(&Proof::new(Purpose::Rpc, &stale, &token).encode()).await.unwrap();
            let mut answer = [0; 54 + 38];
            theirs.read_exact(&mut answer).await.unwrap();
            answer[54]
        };
        let (_, code) = tokio::join!(door.admit(&mut ours, room), peer);
        assert_eq!(code, Refusal::WrongProof as u8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dropped_after_two_seconds() {
        let (mut ours, _theirs) = duplex(256);
        let started = tokio::time::Instant::now();
        let error = door().admit(&mut ours, room).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), HANDSHAKE_TIME_MAX);
    }
}
