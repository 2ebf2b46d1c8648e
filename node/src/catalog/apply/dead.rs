//! What no longer counts has no row.
//!
//! An honest author lets go only what other operations of its log supersede, so that no row rests on it and nothing happens
//! here. Rows of one that lies, or of which roles refuse what supersedes, are found, so that all who have the same operations
//! show the same, whoever has them whole.

use super::{
    super::{
        CatalogError,
        blocks::decode_all,
        rows::{self, EntryRow, Reader, RowStamp, RowValue},
        tables::{ALIASES, AUDIT_HEADS, DEVICES, LOCATION_STATES, OUTCOMES, PROFILES, REPLICAS, SUSPICIONS, WANTS},
    },
    Merge, RowTable, Stated,
};
use redb::{ReadableTable, TableDefinition};

impl<'t> Merge<'t> {
    /// Whether an operation no longer counts.
    pub(super) fn is_dead(&self, stamp: &RowStamp) -> bool {
        self.dead.get(&stamp.author).is_some_and(|dead| dead.contains(stamp.seq))
    }

    /// Whether any row rests on what no longer counts: then everything must be merged anew. Looks at every row.
    pub(in crate::catalog) fn rests_on_dead(&mut self) -> Result<bool, CatalogError> {
        if self.dead.is_empty() {
            return Ok(false);
        }
        self.entry_rows.flush(&mut self.entries)?;
        for block in self.entries.iter()? {
            let (block, stored) = block?;
            let rows = decode_all::<EntryRow>(block.value(), stored.value())?;
            if rows.iter().flatten().any(|row| row.value != RowValue::Void && self.is_dead(&row.stamp)) {
                return Ok(true);
            }
        }
        for (table, definition) in [
            (&self.replicas, REPLICAS),
            (&self.suspicions, SUSPICIONS),
            (&self.devices, DEVICES),
            (&self.audit_heads, AUDIT_HEADS),
            (&self.location_states, LOCATION_STATES),
            (&self.profiles, PROFILES),
            (&self.wants, WANTS),
            (&self.outcomes, OUTCOMES),
        ] {
            if self.any_dead(table, definition)? {
                return Ok(true);
            }
        }
        for row in self.aliases.iter()? {
            let (key, row) = row?;
            let row = rows::open(ALIASES, &key.value(), row.value())?;
            if self.is_dead(&RowStamp::read(&mut Reader::new(row, "aliases-1"))?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn any_dead(
        &self,
        table: &RowTable<'t>,
        definition: TableDefinition<'static, &'static [u8], &'static [u8]>,
    ) -> Result<bool, CatalogError> {
        for row in table.iter()? {
            let (key, row) = row?;
            if self.is_dead(&Stated::decode(rows::open(definition, &key.value(), row.value())?)?.stamp) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
