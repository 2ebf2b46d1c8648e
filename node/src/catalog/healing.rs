//! Writing again after the storage failed: in place, without a restart.
//!
//! What a failed commit had appended is cut off, so that what was answered as failed does not come back; then everything is
//! read as at a start: segments first, then rows. It is tried when somebody wants to write, and now and then without.

use super::{
    CatalogError, OpenReport,
    authors::Authors,
    commit::{Core, LocalLog, Shared},
    rows::{self, Reader},
    segments::{LOCAL_FOLDER, Segments, author_of, segment_of},
    tables::{AUTHORS, CHECKPOINTS, META, SPLITS},
};
use larder_protocol::{
    log::Author,
    time::{Hlc, HlcClock, Timestamp},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Tries for requests lie at least so far apart.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Tries for nobody lie at most so far apart.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Core {
    /// Reads where logs and clock stand; also gives whether it was noted as whom this device writes.
    pub(super) fn load(shared: Arc<Shared>) -> Result<(Self, bool), CatalogError> {
        let mut own = Author { device: shared.identity().device(), incarnation: 0 };
        let mut clock = HlcClock::default();
        let (mut own_shared, mut local_log, mut noted) = (0, LocalLog::default(), false);
        let txn = shared.db.begin_read()?;
        if let Some(row) = txn.open_table(META)?.get("own")? {
            let mut from = Reader::new(rows::open(META, &"own", row.value())?, "meta-1");
            noted = true;
            own.incarnation = from.small()?;
            clock = HlcClock::new(Hlc(from.number()?));
            own_shared = from.number()?;
            local_log = LocalLog { segment: from.number()?, count: from.number()?, offset: from.number()? };
        }
        let authors =
            Authors::load(&txn.open_table(AUTHORS)?, &txn.open_table(SPLITS)?, &txn.open_table(CHECKPOINTS)?)?;
        drop(txn);
        let unsettled = BTreeMap::new();
        Ok((Self { shared, authors, own, clock, own_shared, local_log, read_only: false, unsettled }, noted))
    }

    /// Refuses while nothing can be written.
    pub(super) fn writable(&self) -> Result<(), CatalogError> {
        if !self.read_only {
            return Ok(());
        }
        let cause = self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone();
        Err(CatalogError::ReadOnly(cause.unwrap_or_else(|| Arc::new(CatalogError::Closed))))
    }

    /// Makes the catalog writable again, if what prevented it has gone.
    fn heal(&mut self, now: Timestamp) -> Result<(), CatalogError> {
        if self.shared.db.has_failed() {
            self.shared.db.reopen()?;
        }
        let (mut core, noted) = Self::load(Arc::clone(&self.shared))?;
        core.settle(&self.unsettled)?;
        if core.own == self.own {
            core.own_shared = core.own_shared.max(self.own_shared);
        }
        core.clock = HlcClock::new(core.clock.last().max(self.clock.last()));
        core.reconcile(noted, now, &mut OpenReport::default())?;
        let permits = self.shared.permits();
        core.set_permits(permits, now)?;
        *self = core;
        Ok(())
    }

    /// Cuts off what the failed commit had appended. Whole frames of it stay only if its rows are there after all.
    fn settle(&self, unsettled: &BTreeMap<String, u64>) -> Result<(), CatalogError> {
        let files = self.shared.files();
        for (file, start) in unsettled {
            let failed = |error| Segments::error(file, error);
            let (folder, name) = file.split_once('/').unwrap_or((file, ""));
            let end = if folder == LOCAL_FOLDER {
                self.local_log.offset
            } else {
                let row = author_of(folder).and_then(|author| self.authors.find(&author));
                let row = row.map(|number| self.authors.row(number));
                row.filter(|row| Some(row.segment) == segment_of(name)).map_or(0, |row| row.offset)
            };
            if end > *start {
                continue;
            }
            // What could not be synced may be taken for synced by now: cut even where the length seems right.
            if files.len(file).map_err(failed)? > *start {
                files.truncate(file, *start).map_err(failed)?;
            }
            if *start > 0 || files.len(file).map_err(failed)? > 0 {
                files.sync(file).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// When the next try is due, and what is known of the failure.
pub(super) struct Healing {
    /// The last time that a request named.
    now: Timestamp,
    tried_at: Option<Instant>,
    pause: Duration,
}

impl Healing {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { now, tried_at: None, pause: PAUSE_MIN }
    }

    /// Takes note of what time it is.
    pub(super) fn at(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// How long to wait for requests before the next try without one; `None` when all is well.
    pub(super) fn wait(&self, core: &Core) -> Option<Duration> {
        core.read_only.then(|| self.pause.saturating_sub(self.tried_at.map_or(Duration::ZERO, |at| at.elapsed())))
    }

    /// Notes a failure, and makes what was durable readable again.
    pub(super) fn failed(&mut self, core: &Core, error: &CatalogError) {
        if !core.read_only || matches!(error, CatalogError::ReadOnly(_)) {
            return;
        }
        tracing::error!(%error, "the catalog cannot be written; it is tried again");
        *core.shared.trouble.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error.clone()));
        if core.shared.db.has_failed()
            && let Err(error) = core.shared.db.reopen()
        {
            tracing::debug!(%error, "the catalog is read from a copy");
        }
        self.tried_at = Some(Instant::now());
    }

    /// Tries to write again. For a request, the least pause is waited out first; its answer is worth that.
    pub(super) fn attempt(&mut self, core: &mut Core, for_request: bool) {
        if !core.read_only {
            return;
        }
        if for_request && let Some(at) = self.tried_at {
            thread::sleep(PAUSE_MIN.saturating_sub(at.elapsed()));
        }
        match core.heal(self.now) {
            Ok(()) => {
                *core.shared.trouble.write().unwrap_or_else(PoisonError::into_inner) = None;
                self.pause = PAUSE_MIN;
                tracing::info!("the catalog can be written again");
            }
            Err(error) => {
                *core.shared.trouble.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error));
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
        self.tried_at = Some(Instant::now());
    }
}
