//! Compaction of the local log: the values that only this device has, without those that were written over.
//!
//! They move to a file of the next number. It is written and synced under another name and gets its own name last: a file of
//! a higher number is whole, and is the log. Only then redb names it, and the old one goes. Whenever the power goes, opening
//! takes the highest number and removes what is left of others.

use super::{
    CatalogError,
    commit::{Core, LocalLog, write_own},
    local, rows,
    segments::{Frame, LOCAL_FOLDER, NEW_SUFFIX, Segments, file_name, first_seq_of},
    tables::LOCAL,
};
use redb::ReadableTable;
use std::sync::Arc;

/// The local log is left alone while it is shorter.
const LOCAL_BYTES_MIN: u64 = 64 << 10;

impl Core {
    /// Writes the local log anew when more than half of it was written over; gives the bytes that this saves.
    pub(super) fn compact_local(&mut self) -> Result<u64, CatalogError> {
        self.writable()?;
        let before = self.local_log;
        if before.offset < LOCAL_BYTES_MIN {
            return Ok(0);
        }
        let (mut bytes, mut count) = (Vec::new(), 0);
        let txn = self.shared.db.begin_read()?;
        for row in txn.open_table(LOCAL)?.iter()? {
            let (key, value) = row?;
            let (namespace, name) = key.value();
            let value = rows::open(LOCAL, &(namespace, name), value.value())?;
            let payload = local::encode(namespace, name, Some(value));
            bytes.extend(Frame { accounted: true, returned: false, ops: 1, first_seq: count, payload }.encode());
            count += 1;
            if (bytes.len() as u64).saturating_mul(2) > before.offset {
                return Ok(0);
            }
        }
        drop(txn);
        let file = file_name(LOCAL_FOLDER, before.segment + 1);
        let new = format!("{file}{NEW_SUFFIX}");
        let (shared, failed) = (Arc::clone(&self.shared), |error| Segments::error(&file, error));
        let files = shared.files();
        files.truncate(&new, 0).map_err(failed)?;
        files.write(&new, 0, &bytes).map_err(failed)?;
        files.sync(&new).map_err(failed)?;
        let after = LocalLog { segment: before.segment + 1, count, offset: bytes.len() as u64 };
        let moved = || {
            files.rename(&new, &file).map_err(failed)?;
            let txn = shared.begin_write()?;
            write_own(&txn, &self.own, &self.clock, self.own_shared, &after)?;
            Ok::<_, CatalogError>(txn.commit()?)
        };
        // Which file is the log is not known then; opening again tells.
        let result = moved();
        result.inspect_err(|_| self.read_only = true)?;
        self.local_log = after;
        self.remove_old_local();
        Ok(before.offset.saturating_sub(after.offset))
    }

    /// Removes files of the local log that are it no longer, or never were. What stays is removed another time.
    pub(super) fn remove_old_local(&self) {
        let files = self.shared.files();
        let names = files.list().inspect_err(|error| tracing::warn!(%error, "old files of the local log stay"));
        for name in names.unwrap_or_default() {
            let Some(file) = name.strip_prefix(LOCAL_FOLDER).and_then(|name| name.strip_prefix('/')) else { continue };
            let is_old = first_seq_of(file).is_some_and(|segment| segment < self.local_log.segment);
            if (is_old || file.ends_with(NEW_SUFFIX))
                && let Err(error) = files.remove(&name)
            {
                tracing::warn!(%error, name, "an old file of the local log stays");
            }
        }
    }
}
