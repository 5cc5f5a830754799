//! An enclave that somebody else starts and ends, such as `nitro-cli`: it is claimed and handed over,
//! and watched until it no longer answers.

use std::pin::Pin;
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use tokio::time::{sleep, timeout};

use crate::socket::{self, SocketName};
use crate::supervisor::{Boot, Launch, LauncherError, Listener};

/// From our start to the first answer: an enclave with much memory takes its time.
const LISTEN_TIME_MAX: Duration = Duration::from_mins(2);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// For one connection.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);
/// Looks in a row without an answer after which it is gone. A full queue costs one or two.
const MISSES_MAX: u32 = 3;

/// What to claim.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Where the enclave listens: vsock://CID:5000.
    #[arg(long)]
    pub address: EnclaveAddress,
    /// Where the claim is handed over to `serve`: @NAME or a path.
    #[arg(long)]
    pub handoff: SocketName,
}

/// An enclave that is not ours to end.
#[derive(Debug)]
pub struct Attached {
    address: EnclaveAddress,
}

impl Launch for Settings {
    type Boot = Attached;

    fn handoff(&self) -> &SocketName {
        &self.handoff
    }

    fn address(&self) -> EnclaveAddress {
        self.address.clone()
    }

    fn listen_time_max(&self) -> Duration {
        LISTEN_TIME_MAX
    }

    async fn start(&self) -> Result<Attached, LauncherError> {
        Ok(Attached { address: self.address.clone() })
    }
}

impl Boot for Attached {
    fn listener(&self) -> Listener {
        Listener::Anybody
    }

    fn listening(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let address = self.address.clone();
        Box::pin(async move {
            while !answers(&address).await {
                sleep(LOOK_PERIOD).await;
            }
        })
    }

    async fn ended(&mut self) -> String {
        let mut misses = 0;
        while misses < MISSES_MAX {
            sleep(LOOK_PERIOD).await;
            misses = if answers(&self.address).await { 0 } else { misses + 1 };
        }
        format!("no answer at {}", self.address)
    }

    async fn stop(self) {}
}

async fn answers(address: &EnclaveAddress) -> bool {
    matches!(timeout(LOOK_TIME_MAX, socket::open(address)).await, Ok(Ok(_)))
}
