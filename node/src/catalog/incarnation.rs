//! A new incarnation of this device: when its own log turned out to go on elsewhere.
//!
//! What nobody was told is moved to the new log; what others may know stays where it is. Three steps, each durable
//! before the next: a note that the new log is being written; the new log, with the rows of both; the frames that were
//! moved are cut from the old files. Opening finishes what was interrupted.

use super::{
    Appended, CatalogError, Commit,
    apply::Changes,
    commit::{Core, Stage},
    identity::CHECKPOINT_KIND,
    rows::{self, BatchRow, Reader, Writer},
    segments::{Segments, first_of, folder_of, segment_of},
    tables::{BATCHES, META},
};
use larder_protocol::{
    bounded::Bytes,
    log::{Author, INCARNATIONS_MAX, genesis_hash},
    record::Record,
    time::Timestamp,
};
use redb::WriteTransaction;
use std::sync::Arc;

/// Name of the note in `meta-1`.
const NOTE: &str = "incarnation";

/// A step that must be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// The log of this incarnation is being written; nobody was told of it.
    Writing(u32),
    /// Frames of this incarnation's log, from a place in its files on, were moved to the next one.
    Cutting { incarnation: u32, segment: u64, offset: u64 },
}

impl Note {
    fn write(self, txn: &WriteTransaction) -> Result<(), CatalogError> {
        let mut to = Writer::default();
        match self {
            Self::Writing(incarnation) => to.number(0).number(incarnation.into()),
            Self::Cutting { incarnation, segment, offset } => {
                to.number(1).number(incarnation.into()).number(segment).number(offset)
            }
        };
        txn.open_table(META)?.insert(NOTE, rows::close(META, &NOTE, &to.0).as_slice())?;
        Ok(())
    }

    fn read(core: &Core) -> Result<Option<Self>, CatalogError> {
        let txn = core.shared.db.begin_read()?;
        let meta = txn.open_table(META)?;
        let Some(row) = meta.get(NOTE)? else { return Ok(None) };
        let mut from = Reader::new(rows::open(META, &NOTE, row.value())?, "meta-1");
        Ok(Some(match from.number()? {
            0 => Self::Writing(from.small()?),
            _ => Self::Cutting { incarnation: from.small()?, segment: from.number()?, offset: from.number()? },
        }))
    }

    fn remove(core: &Core) -> Result<(), CatalogError> {
        let txn = core.shared.begin_write()?;
        txn.open_table(META)?.remove(NOTE)?;
        Ok(txn.commit()?)
    }
}

impl Core {
    /// Begins a new incarnation of this device. Its log begins with this device's announcements of its locations, and
    /// with everything that the old one never shared, which is taken out of that. All keep the time at which they were
    /// said first.
    pub(super) fn start_incarnation(&mut self, now: Timestamp) -> Result<(Appended, Commit), CatalogError> {
        self.writable()?;
        let identity = self.shared.identity();
        let (old, shared) = (self.own, self.own_shared);
        let last = self.authors.last_incarnation(&old.device).unwrap_or(old.incarnation).max(old.incarnation);
        let incarnation = last.saturating_add(1);
        if incarnation >= INCARNATIONS_MAX {
            return Err(CatalogError::Full("incarnations of this device"));
        }
        let new = Author { device: old.device, incarnation };

        let mut bodies = Vec::new();
        let snapshot = super::Snapshot::new(Arc::clone(&self.shared))?;
        for known in snapshot.locations_said()? {
            let author = known.stamp.author;
            if author.device == old.device && (author == old || author.is_split()) {
                let record = Record::from(known.value);
                let body = record.encode().ok().and_then(|body| Bytes::new(body).ok());
                let body = body.ok_or_else(|| CatalogError::damaged("locations-1"))?;
                bodies.push((Some(known.stamp.hlc), record.kind(), body));
            }
        }
        drop(snapshot);
        let mut cut = Vec::new();
        if let Some(number) = self.authors.find(&old) {
            let txn = self.shared.db.begin_read()?;
            let table = txn.open_table(BATCHES)?;
            let mut seq = shared;
            while seq < self.authors.row(number).stored {
                let (first, row, batch) = self.stored_batch(&table, &self.authors, number, seq)?;
                seq = first.saturating_add(row.ops());
                if first >= shared {
                    // A checkpoint speaks of numbers of the log that it stands in.
                    let ops = batch.iter().flat_map(|batch| batch.ops.iter()).filter(|op| op.kind != CHECKPOINT_KIND);
                    bodies.extend(ops.map(|op| (Some(op.hlc), op.kind, op.body.clone())));
                    cut.push((first, row));
                }
            }
        }

        let mut stage = Stage::new(self);
        let appended = stage.own_again(&identity, &new, bodies, now)?;
        let own = std::mem::take(&mut stage.own);
        let number = stage.authors.number(&identity.group, &old);
        stage.authors.number(&identity.group, &new);
        let mut note = None;
        if let Some((first, row)) = cut.first() {
            let before = match self.last_before(number, *first)? {
                Some(row) => row.hash,
                None => genesis_hash(&identity.group, &old),
            };
            let author = stage.authors.row_mut(number);
            (author.stored, author.last_hash) = (*first, before);
            (author.segment, author.offset) = (row.segment, row.offset);
            author.accounted = author.accounted.min(*first);
            stage.authors.forget_checkpoints(number, *first);
            note = Some(Note::Cutting { incarnation: row.folder, segment: row.segment, offset: row.offset });
        }
        let txn = self.shared.begin_write()?;
        Note::Writing(incarnation).write(&txn)?;
        txn.commit()?;
        (self.own, self.own_shared) = (new, 0);
        let changes = self.commit_cut(stage, number, &cut, note, now).inspect_err(|_| self.read_only = true)?;
        if let Some(note) = note {
            self.finish_cut(note).inspect_err(|_| self.read_only = true)?;
        }
        Ok((appended, Commit { begun: Some(new), ..changes.told(own) }))
    }

    fn last_before(&self, number: u32, seq: u64) -> Result<Option<BatchRow>, CatalogError> {
        let txn = self.shared.db.begin_read()?;
        let table = txn.open_table(BATCHES)?;
        match table.range((number, 0)..(number, seq))?.next_back() {
            Some(row) => {
                let (key, row) = row?;
                Ok(Some(BatchRow::decode(rows::open(BATCHES, &key.value(), row.value())?)?))
            }
            None => Ok(None),
        }
    }

    fn commit_cut(
        &mut self,
        mut stage: Stage,
        number: u32,
        cut: &[(u64, BatchRow)],
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Changes, CatalogError> {
        self.append_segments(&stage)?;
        let shared = Arc::clone(&self.shared);
        let txn = shared.begin_write()?;
        {
            let mut table = txn.open_table(BATCHES)?;
            for (first, _) in cut {
                table.remove((number, *first))?;
            }
            stage.index(&mut table)?;
        }
        let changes = self.merge_anew(&txn, &mut stage.authors, now)?;
        stage.finish(&txn, self)?;
        match note {
            Some(note) => note.write(&txn)?,
            None => drop(txn.open_table(META)?.remove(NOTE)?),
        }
        txn.commit()?;
        self.take(stage);
        Ok(changes)
    }

    /// Takes frames that were moved out of the old files; before anything else is appended there.
    fn finish_cut(&self, note: Note) -> Result<(), CatalogError> {
        if let Note::Cutting { incarnation, segment, offset } = note {
            self.cut_files(incarnation, segment, offset)?;
        }
        Note::remove(self)
    }

    /// Cuts the files of one of this device's logs from a place on.
    fn cut_files(&self, incarnation: u32, segment: u64, offset: u64) -> Result<(), CatalogError> {
        let folder = folder_of(&Author { incarnation, ..self.own });
        let files = self.shared.files().list().map_err(|error| Segments::error(&folder, error))?;
        for name in files {
            let first = name.strip_prefix(&folder).and_then(|rest| rest.strip_prefix('/')).and_then(segment_of);
            if let Some(first) = first.filter(|first| first_of(*first) >= first_of(segment)) {
                self.set_aside(&name, if first == segment { offset } else { 0 }, false)?;
            }
        }
        Ok(())
    }

    /// Finishes the change of incarnation that was interrupted, before the files are read: what is in doubt of the new
    /// log is set aside. Gives whether [`start_incarnation`](Self::start_incarnation) must be called again.
    pub(super) fn resume_incarnation(&self) -> Result<bool, CatalogError> {
        match Note::read(self)? {
            None => Ok(false),
            Some(Note::Writing(incarnation)) => {
                self.cut_files(incarnation, 0, 0)?;
                Ok(true)
            }
            Some(note) => self.finish_cut(note).map(|()| false),
        }
    }
}
