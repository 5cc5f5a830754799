//! What the server knows: keys, credentials, the fault in force, counters. In memory for tests, or
//! in a folder.
//!
//! In a folder, files are also the control channel: `put-policy` and `fault` replace a file, and the
//! server reads both before each request. A control endpoint would be one more listener to protect,
//! and would forget at each restart; files have an owner and a mode.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::counters::Counters;
use crate::fault::FaultMode;
use crate::keys::Key;
use crate::{BREAK_GLASS_ROLE, DATAPLANE_ROLE};

/// Keys and credentials, 0600.
const STATE_FILE: &str = "state.json";
/// One word: the fault in force; absent for none.
const FAULT_FILE: &str = "fault";
/// Counters, replaced before each answer.
const STATS_FILE: &str = "stats.json";

/// A pair that signs requests, and whose it is. Published test values, of no use anywhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Credential {
    /// Name of the profile in `credentials`.
    pub profile: String,
    /// Access key.
    #[serde(rename = "accessKeyId")]
    pub access_key: String,
    /// Secret access key.
    #[serde(rename = "secretAccessKey")]
    pub secret: String,
    /// Session token; empty for long-term credentials.
    pub session_token: String,
    /// ARN of the role.
    pub principal: String,
}

/// State of a test KMS.
#[derive(Debug)]
pub struct Store {
    folder: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    fault: FaultMode,
    counters: Counters,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    keys: Vec<Key>,
    credentials: Vec<Credential>,
}

impl Credential {
    /// Those of every test KMS: `default` for the data plane, `session` for the same role with a
    /// session token, as pods have, and `break-glass` for key administration.
    pub fn known() -> [Self; 3] {
        [
            Self {
                profile: "default".to_owned(),
                access_key: "AKIATESTONLYDATAPLNE".to_owned(),
                secret: "test-only-not-a-secret-dataplane-1111111".to_owned(),
                session_token: String::new(),
                principal: DATAPLANE_ROLE.to_owned(),
            },
            Self {
                profile: "session".to_owned(),
                access_key: "ASIATESTONLYDATAPLNE".to_owned(),
                secret: "test-only-not-a-secret-dataplane-0000000".to_owned(),
                session_token: "test-only-not-a-secret-session-token".to_owned(),
                principal: DATAPLANE_ROLE.to_owned(),
            },
            Self {
                profile: "break-glass".to_owned(),
                access_key: "AKIATESTONLYBREAKGLS".to_owned(),
                secret: "test-only-not-a-secret-breakglass-000000".to_owned(),
                session_token: String::new(),
                principal: BREAK_GLASS_ROLE.to_owned(),
            },
        ]
    }

    /// As a profile of an AWS credentials file.
    pub fn to_profile(&self) -> String {
        let Self { profile, access_key, secret, session_token, .. } = self;
        let mut text = format!(
            "[{profile}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n"
        );
        if !session_token.is_empty() {
            text.extend(["aws_session_token = ", session_token, "\n"]);
        }
        text
    }
}

impl Store {
    /// In memory.
    pub fn in_memory(keys: Vec<Key>) -> Self {
        Self::new(None, State { keys, credentials: Credential::known().to_vec() })
    }

    /// Writes a new folder's files.
    ///
    /// # Errors
    /// They exist already or cannot be written.
    pub fn create(folder: &Path, keys: Vec<Key>) -> io::Result<Self> {
        if folder.join(STATE_FILE).exists() {
            let message = format!("{} exists already", folder.join(STATE_FILE).display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let state = State { keys, credentials: Credential::known().to_vec() };
        let store = Self::new(Some(folder.to_owned()), state);
        store.save(&store.lock().state)?;
        Ok(store)
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let store = Self::new(Some(folder.to_owned()), read_state(folder)?);
        let mut inner = store.lock();
        inner.fault = read_fault(folder)?;
        match fs::read(folder.join(STATS_FILE)) {
            Ok(bytes) => {
                inner.counters = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        drop(inner);
        Ok(store)
    }

    fn new(folder: Option<PathBuf>, state: State) -> Self {
        let inner = Inner { state, fault: FaultMode::Off, counters: Counters::default() };
        Self { folder, inner: Mutex::new(inner) }
    }

    /// Takes in what other processes wrote to the folder.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        if let Some(folder) = &self.folder {
            let (state, fault) = (read_state(folder)?, read_fault(folder)?);
            let mut inner = self.lock();
            inner.state = state;
            inner.fault = fault;
        }
        Ok(())
    }

    /// The fault in force.
    pub fn fault(&self) -> FaultMode {
        self.lock().fault
    }

    /// Sets the fault in force from the next connection or request on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_fault(&self, fault: FaultMode) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(folder) = &self.folder {
            write(&folder.join(FAULT_FILE), 0o600, format!("{fault}\n").as_bytes())?;
        }
        inner.fault = fault;
        Ok(())
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().state.keys.clone()
    }

    /// The credentials.
    pub fn credentials(&self) -> Vec<Credential> {
        self.lock().state.credentials.clone()
    }

    /// Puts the key in, in place of one with its ARN.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_key(&self, key: Key) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.state.keys.iter_mut().find(|one| one.arn == key.arn) {
            Some(place) => *place = key,
            None => inner.state.keys.push(key),
        }
        self.save(&inner.state)
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Counts a request that is about to be answered, so that whoever has the answer sees it.
    pub(crate) fn count(&self, action: &str, result: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.counters.count(action, result);
        let Some(folder) = &self.folder else { return Ok(()) };
        let text = serde_json::to_vec_pretty(&inner.counters).map_err(io::Error::other)?;
        write(&folder.join(STATS_FILE), 0o600, &text)
    }

    fn save(&self, state: &State) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::other)?;
        write(&folder.join(STATE_FILE), 0o600, &text)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file whole: readers see the old or the new one.
pub(crate) fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

fn read_state(folder: &Path) -> io::Result<State> {
    let path = folder.join(STATE_FILE);
    let bytes = fs::read(&path).map_err(|error| {
        let hint = format!("{}: {error}; `devkms init` makes it", path.display());
        io::Error::new(error.kind(), hint)
    })?;
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

fn read_fault(folder: &Path) -> io::Result<FaultMode> {
    match fs::read_to_string(folder.join(FAULT_FILE)) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FaultMode::Off),
        Err(error) => Err(error),
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}, redacted)", self.access_key)
    }
}
