//! One look at a keyspace: is there a DEK that keys should leave, and if so a walk over the keys.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use super::pace::Pace;
use super::step::{self, Outcome};
use super::walk::Walk;
use super::{DekId, Known, Resealer};
use crate::metrics::by_keyspace;
use crate::pool::Boot;
use crate::seldom::Seldom;
use crate::status::ResealStatus;
use crate::store::{DekRecord, KeyRecord, StoreError};

/// Rows of one page: a hundred keys are 100 KiB at most.
const PAGE_ROWS: usize = 100;
/// How long a DEK counts as one without keys. Another member may seal under it until its own enclave
/// renews the DEK, which takes less than a DEK's life.
const EMPTY_FOR: Duration = Duration::from_hours(1);

/// A look at one keyspace.
pub(super) struct Round<'a> {
    job: &'a Resealer,
    boot: &'a Boot,
    keyspace: &'a str,
    known: &'a mut Known,
    pace: &'a mut Pace,
    /// Keys that were met and not moved.
    left: u64,
    /// Their DEKs.
    unfinished: BTreeSet<DekId>,
    /// DEKs that were locked: no further key of theirs is tried in this round.
    locked: BTreeSet<DekId>,
    complaints: Seldom,
}

/// Why a round ends early.
enum Stop {
    /// It is switched off, or an operator drains the enclave.
    Off,
    /// Something is away or refuses.
    Fault(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.to_string())
    }
}

// === impl Round ===

impl<'a> Round<'a> {
    pub(super) fn new(
        job: &'a Resealer,
        boot: &'a Boot,
        keyspace: &'a str,
        known: &'a mut Known,
        pace: &'a mut Pace,
    ) -> Self {
        Self {
            job,
            boot,
            keyspace,
            known,
            pace,
            left: 0,
            unfinished: BTreeSet::new(),
            locked: BTreeSet::new(),
            complaints: Seldom::default(),
        }
    }

    /// `true`: nothing is left to do here.
    pub(super) async fn run(&mut self) -> bool {
        let before = self.known.moved;
        let ended = self.look().await;
        let (moved, left) = (self.known.moved - before, self.left);
        if moved > 0 {
            tracing::info!(keyspace = self.keyspace, moved, left, "keys sealed again");
        }
        match ended {
            Ok(done) => done,
            Err(Stop::Off) => false,
            Err(Stop::Fault(why)) => {
                tracing::warn!(keyspace = self.keyspace, why, "sealing keys again stopped");
                self.job.metrics.reseal_fail.get_or_create(&by_keyspace(self.keyspace)).inc();
                self.show(1, Some(why));
                false
            }
        }
    }

    async fn look(&mut self) -> Result<bool, Stop> {
        // Before its test key signed, the boot may not even have the DEK.
        let status = self.job.status.snapshot();
        if !status.keyspaces.get(self.keyspace).is_some_and(|keyspace| keyspace.unlocked) {
            return Ok(false);
        }
        let records = &self.job.records;
        let Some(newest) = records.current(self.keyspace, &self.boot.pcr0).await? else {
            return Ok(false);
        };
        let older = self.older(newest).await?;
        if older.is_empty() {
            self.show(0, None);
            return Ok(true);
        }
        let missing = || Stop::Fault("the store has no row of the newest DEK".to_owned());
        let newest = records.dek(newest).await?.ok_or_else(missing)?;
        self.show(older.len(), None);
        self.turn().await?;
        let mut lane = Lane::open(self.boot).await.map_err(Stop::Fault)?;
        self.walk(&mut lane, &newest, &older).await?;
        let now = Instant::now();
        let finished =
            older.difference(&self.unfinished).filter(|dek| !self.known.kept.contains(*dek));
        let finished: Vec<_> = finished.map(|dek| (*dek, now)).collect();
        self.known.empty.extend(finished);
        let waiting = older.iter().filter(|dek| self.may_have_keys(dek)).count();
        self.show(waiting, None);
        Ok(waiting == 0)
    }

    /// DEKs that may have keys for the newest one.
    async fn older(&mut self, newest: DekId) -> Result<BTreeSet<DekId>, Stop> {
        self.known.empty.retain(|_, since| since.elapsed() < EMPTY_FOR);
        let (mut older, mut after) = (BTreeSet::new(), None);
        loop {
            let (deks, next) = self.job.records.deks(self.keyspace, after, PAGE_ROWS).await?;
            let ids = deks.iter().map(|dek| dek.dek_id);
            older.extend(ids.filter(|dek| *dek != newest && self.may_have_keys(dek)));
            if next.is_none() {
                return Ok(older);
            }
            after = next;
        }
    }

    fn may_have_keys(&self, dek: &DekId) -> bool {
        !self.known.kept.contains(dek) && !self.known.empty.contains_key(dek)
    }

    async fn walk(
        &mut self,
        lane: &mut Lane,
        newest: &DekRecord,
        older: &BTreeSet<DekId>,
    ) -> Result<(), Stop> {
        let mut start = [0; 16];
        // Without chance members meet more often, and nothing else.
        let _ = aws_lc_rs::rand::fill(&mut start);
        let mut walk = Walk::from(start);
        while !walk.is_done() {
            self.turn().await?;
            let after = walk.after();
            let (keys, next) = self.job.records.keys(self.keyspace, after, PAGE_ROWS).await?;
            for key in walk.take(keys, next) {
                if key.dek_id != newest.dek_id && !self.known.kept.contains(&key.dek_id) {
                    self.key(lane, &key, newest).await?;
                }
            }
            let waiting = older.difference(&self.known.kept).count();
            self.show(waiting, None);
            if waiting == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn key(
        &mut self,
        lane: &mut Lane,
        key: &KeyRecord,
        newest: &DekRecord,
    ) -> Result<(), Stop> {
        if self.locked.contains(&key.dek_id) {
            self.leave(key.dek_id);
            return Ok(());
        }
        self.turn().await?;
        match step::reseal(&self.job.records, lane, key, newest).await {
            Outcome::Moved => {
                self.known.moved += 1;
                self.job.metrics.reseal.get_or_create(&by_keyspace(self.keyspace)).inc();
            }
            Outcome::Overtaken => {}
            Outcome::Kept => {
                self.known.kept.insert(key.dek_id);
                let dek_id = const_hex::encode(key.dek_id);
                let keyspace = self.keyspace;
                tracing::info!(
                    keyspace,
                    dek_id,
                    "keys of this DEK stay: it is no DEK of this image"
                );
            }
            Outcome::Locked => {
                self.locked.insert(key.dek_id);
                self.leave(key.dek_id);
            }
            Outcome::Failed(why) => self.failed(key, &why),
            Outcome::Stopped(why) => return Err(Stop::Fault(why)),
        }
        Ok(())
    }

    fn leave(&mut self, dek: DekId) {
        self.left += 1;
        self.unfinished.insert(dek);
    }

    fn failed(&mut self, key: &KeyRecord, why: &str) {
        self.leave(key.dek_id);
        self.job.metrics.reseal_fail.get_or_create(&by_keyspace(self.keyspace)).inc();
        if let Some(left_out) = self.complaints.admit(Instant::now()) {
            let key_id = sigil_enclave_client::KeyId(key.key_id);
            let keyspace = self.keyspace;
            tracing::warn!(keyspace, %key_id, why, left_out, "key not sealed again");
        }
    }

    /// Waits for the next step, as the settings of this moment say.
    async fn turn(&mut self) -> Result<(), Stop> {
        let rate = self.job.live.load().reseal.per_second_max;
        let admitted = self.pace.turn(rate).await && !self.job.upstream.is_draining();
        if admitted { Ok(()) } else { Err(Stop::Off) }
    }

    fn show(&self, deks_left: usize, stopped: Option<String>) {
        let status = ResealStatus {
            moved: self.known.moved,
            left: self.left,
            deks_left,
            deks_kept: self.known.kept.len(),
            stopped,
        };
        self.job.status.resealed(&self.boot.boot_id.to_string(), self.keyspace, status);
    }
}
