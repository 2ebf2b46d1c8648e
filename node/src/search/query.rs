//! Asking: which files have all words in their names or folders.

use super::{
    index::{Search, SearchError, UNINDEXED_MAX},
    text::{Word, normal},
};
use crate::catalog::Snapshot;
use larder_protocol::{
    id::{ContentId, LocationId},
    path::RelPath,
    record::{EntryValue, File, Stamp},
};
use std::collections::HashSet;

/// What is looked for.
#[derive(Default)]
pub struct Query<'a> {
    /// Words, separated by blanks; each must be in the name or a folder. Without a word nothing is found.
    pub words: &'a str,
    /// Only files of this location.
    pub location: Option<LocationId>,
    /// Only what this accepts, for instance by its extension. Asked once for each place of a content until it accepts.
    pub accept: Option<&'a dyn Fn(&Hit) -> bool>,
    /// Most hits.
    pub limit: usize,
}

/// A content that was found, under the place that was found first (the one that the catalog heard of last).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Where it is.
    pub location: LocationId,
    /// The path inside.
    pub path: RelPath,
    /// Content, size and times.
    pub file: File,
    /// Who said so.
    pub stamp: Stamp,
}

struct Collect<'q, 'a> {
    query: &'q Query<'a>,
    words: Vec<Word>,
    seen: HashSet<ContentId>,
    hits: Vec<Hit>,
}

impl Collect<'_, '_> {
    fn is_full(&self) -> bool {
        self.hits.len() >= self.query.limit
    }

    fn offer(&mut self, snapshot: &Snapshot, ordinal: u32) -> Result<(), SearchError> {
        let words = &self.words;
        let has_all = |path: &str| {
            let text = normal(path);
            words.iter().all(|word| word.is_in(&text))
        };
        let Some(entry) = snapshot.entry_if(ordinal, has_all)? else { return Ok(()) };
        let EntryValue::File(file) = entry.value else { return Ok(()) };
        if self.query.location.is_some_and(|location| location != entry.location) || self.seen.contains(&file.content) {
            return Ok(());
        }
        let hit = Hit { location: entry.location, path: entry.path, file, stamp: entry.stamp };
        if self.query.accept.is_none_or(|accept| accept(&hit)) {
            self.seen.insert(file.content);
            self.hits.push(hit);
        }
        Ok(())
    }
}

impl Search {
    /// Finds contents, each once, those that the catalog heard of last first. Reflects everything committed before
    /// the call. A damaged index is made anew on the way.
    ///
    /// # Errors
    /// [`SearchError`] when catalog or index fail.
    pub fn find(&self, query: &Query<'_>) -> Result<Vec<Hit>, SearchError> {
        match self.find_once(query) {
            Err(SearchError::Damaged) => {
                tracing::warn!("search index is damaged: making it anew");
                self.inner.reset()?;
                self.find_once(query)
            }
            other => other,
        }
    }

    fn find_once(&self, query: &Query<'_>) -> Result<Vec<Hit>, SearchError> {
        let mut collect = Collect { query, words: Word::all(query.words), seen: HashSet::new(), hits: Vec::new() };
        if collect.words.is_empty() || query.limit == 0 {
            return Ok(Vec::new());
        }
        let snapshot = self.inner.catalog.read()?;
        let end = snapshot.entries_end()?;
        let mut reader = self.inner.reader()?;
        if end.saturating_sub(reader.watermark) > UNINDEXED_MAX {
            self.catch_up()?;
            reader = self.inner.reader()?;
        }
        for ordinal in (reader.watermark..end).rev() {
            collect.offer(&snapshot, ordinal)?;
            if collect.is_full() {
                return Ok(collect.hits);
            }
        }
        let Some(grams) = reader.by_rarity(&collect.words)? else { return Ok(collect.hits) };
        let indexed = reader.watermark.min(end);
        for block in (0..=(indexed.saturating_sub(1) >> 16) as u16).rev() {
            for low in reader.candidates(block, &grams)?.iter().rev() {
                // The index may be ahead of the snapshot.
                let ordinal = u32::from(block) << 16 | low;
                if ordinal < end {
                    collect.offer(&snapshot, ordinal)?;
                }
                if collect.is_full() {
                    return Ok(collect.hits);
                }
            }
        }
        Ok(collect.hits)
    }
}
