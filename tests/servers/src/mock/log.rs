//! What a mock was asked.

use super::{Fault, Kind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One request, in the order in which their bodies were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it was for.
    pub kind: Kind,
    /// Method.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Whether it carried an `Authorization` header.
    pub authorized: bool,
    /// `Range`.
    pub range: Option<String>,
    /// `Content-Range`.
    pub content_range: Option<String>,
    /// Bytes of its body.
    pub body_len: usize,
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// What befell it.
    pub fault: Option<Fault>,
}

/// The requests of one mock.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Entry>>>);

impl Log {
    /// All of them.
    pub fn all(&self) -> Vec<Entry> {
        self.entries().clone()
    }

    /// Those of a kind.
    pub fn of(&self, kind: Kind) -> Vec<Entry> {
        self.entries().iter().filter(|entry| entry.kind == kind).cloned().collect()
    }

    /// The sizes of the parts of uploads, in bytes.
    pub fn part_sizes(&self) -> Vec<usize> {
        self.of(Kind::Part).iter().map(|entry| entry.body_len).collect()
    }

    /// Requests whose URL contains one of these texts, plain or percent-encoded.
    pub fn with_in_url(&self, texts: &[String]) -> Vec<Entry> {
        let plain = |target: &str| percent_encoding::percent_decode_str(target).decode_utf8_lossy().into_owned();
        let holds = |target: &str| texts.iter().any(|text| target.contains(text) || plain(target).contains(text));
        self.entries().iter().filter(|entry| holds(&entry.target)).cloned().collect()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.entries().clear();
    }

    pub(super) fn push(&self, entry: Entry) {
        self.entries().push(entry);
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
