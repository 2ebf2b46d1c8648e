//! Where a content is.

use super::{
    super::{
        CatalogError, ResolveError,
        apply::{alias_key, content_prefix, copy_key, hash_prefix, index_key, ordinal_of, place_key},
        blocks::ContentRow,
        index,
        tables::{ALIAS_CONTENTS, ALIASES, CONTENT_ORDINALS, PLACES, REPLICAS, SUSPICIONS},
    },
    BytesDefinition, Copies, Known, KnownEntry, Snapshot,
};
use larder_protocol::{
    codec::Wire,
    id::{ChunkId, ContentId, LocationId},
    record::{Replica, Suspicion},
};
use redb::ReadableTableMetadata;
use std::collections::BTreeSet;

impl Snapshot {
    pub(super) fn content_row(&self, ordinal: u32) -> Result<ContentRow, CatalogError> {
        self.recent_contents.get(&self.contents, ordinal)?.ok_or_else(|| CatalogError::damaged("contents-1"))
    }

    pub(crate) fn content_ordinal(&self, id: &ContentId) -> Result<Option<u32>, CatalogError> {
        let prefix = content_prefix(id);
        let table = self.txn.open_table(CONTENT_ORDINALS)?;
        for key in index::range(CONTENT_ORDINALS, &table, &index_key(prefix, 0), &index_key(prefix, u32::MAX))? {
            let ordinal = ordinal_of(&key);
            if self.content_row(ordinal)?.id == *id {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// The content whose id begins with these hex digits, of which there are at least 6.
    ///
    /// # Errors
    /// [`ResolveError`] when there is none, or more than one.
    pub fn resolve(&self, prefix: &str) -> Result<ContentId, ResolveError> {
        const SHOWN_MAX: usize = 16;
        let prefix = prefix.to_ascii_lowercase();
        let is_hex = prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || prefix.len() < 6 || prefix.len() > 2 * ContentId::LEN {
            return Err(ResolveError::NotAPrefix);
        }
        let bound = |fill: char| {
            let digits: String = prefix.chars().chain(std::iter::repeat(fill)).take(16).collect();
            u64::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
        };
        let (from, until) = (index_key(bound('0'), 0), index_key(bound('f'), u32::MAX));
        let table = self.txn.open_table(CONTENT_ORDINALS).map_err(CatalogError::from)?;
        let mut found = Vec::new();
        for key in index::range(CONTENT_ORDINALS, &table, &from, &until)? {
            let id = self.content_row(ordinal_of(&key))?.id;
            if id.to_string().starts_with(&prefix) {
                found.push(id);
                if found.len() == SHOWN_MAX {
                    break;
                }
            }
        }
        match found.as_slice() {
            [] => Err(ResolveError::Unknown),
            [one] => Ok(*one),
            _ => Err(ResolveError::Ambiguous(found)),
        }
    }

    /// The contents that somebody says have this SHA-256; nearly always one or none.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn with_sha256(&self, sha256: &[u8; 32]) -> Result<Vec<ContentId>, CatalogError> {
        let prefix = hash_prefix(sha256);
        let aliases = self.bytes(ALIASES)?;
        let mut contents = Vec::new();
        let table = self.txn.open_table(ALIAS_CONTENTS)?;
        for key in index::range(ALIAS_CONTENTS, &table, &index_key(prefix, 0), &index_key(prefix, u32::MAX))? {
            let content = ordinal_of(&key);
            if aliases.get(&alias_key(content, sha256)[..])?.is_some() {
                contents.push(self.content_row(content)?.id);
            }
        }
        Ok(contents)
    }

    /// Whether somebody has said a content's SHA-256.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn has_sha256(&self, id: &ContentId) -> Result<bool, CatalogError> {
        let Some(content) = self.content_ordinal(id)? else { return Ok(false) };
        let (from, until) = (alias_key(content, &[0; 32]), alias_key(content, &[0xff; 32]));
        let aliases = self.bytes(ALIASES)?;
        Ok(aliases.range::<&[u8]>(&from[..]..=&until[..])?.next().transpose()?.is_some())
    }

    /// How many SHA-256 have been said.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn sha256_count(&self) -> Result<u64, CatalogError> {
        Ok(self.bytes(ALIASES)?.len()?)
    }

    /// A content's size and copies; `None` if nobody said what it is.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn copies(&self, id: &ContentId) -> Result<Option<Copies>, CatalogError> {
        let Some(content) = self.content_ordinal(id)? else { return Ok(None) };
        let Some(size) = self.content_row(content)?.size else { return Ok(None) };
        let mut entries = Vec::new();
        let places = self.txn.open_table(PLACES)?;
        for key in index::range(PLACES, &places, &place_key(content, 0), &place_key(content, u32::MAX))? {
            let entry = self.entry_at(ordinal_of(&key))?;
            entries.push(entry.ok_or_else(|| CatalogError::damaged("entries-1"))?);
        }
        // Numbers differ from device to device; what readers see does not.
        entries.sort_by(|a: &KnownEntry, b| (a.location, &a.path).cmp(&(b.location, &b.path)));
        let mut replicas: Vec<Known<Replica>> = self.said_of_copies(REPLICAS, content)?;
        replicas.sort_by_key(|known| (known.value.location, known.stamp));
        let mut suspicions: Vec<Known<Suspicion>> = self.said_of_copies(SUSPICIONS, content)?;
        suspicions.sort_by_key(|known| (known.value.location, known.stamp));
        Ok(Some(Copies { size, entries, replicas, suspicions }))
    }

    /// Manifests of every copy that anybody says or said last to be at a location, also of those that are lost. Looks at all
    /// copies of all locations.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn manifests_at(&self, location: &LocationId) -> Result<BTreeSet<ChunkId>, CatalogError> {
        let Some(number) = self.location_number(location)? else { return Ok(BTreeSet::new()) };
        let mut manifests = BTreeSet::new();
        for row in self.bytes(REPLICAS)?.range::<&[u8]>(..)? {
            let (key, row) = row?;
            if key.value().get(4..8) == Some(&number.to_be_bytes()[..]) {
                manifests.insert(self.known::<Replica>(REPLICAS, key.value(), row.value())?.value.manifest);
            }
        }
        Ok(manifests)
    }

    fn said_of_copies<T: Wire>(&self, table: BytesDefinition, content: u32) -> Result<Vec<Known<T>>, CatalogError> {
        let (from, until) = (copy_key(content, 0, &[]), copy_key(content, u32::MAX, &[0xff; 33]));
        let mut said = Vec::new();
        for row in self.bytes(table)?.range::<&[u8]>(&from[..]..&until[..])? {
            let (key, row) = row?;
            said.push(self.known(table, key.value(), row.value())?);
        }
        Ok(said)
    }
}
