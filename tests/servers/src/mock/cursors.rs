//! Pages of a listing: what was listed at its beginning is cut into pages, so that changes in between shift nothing.

use std::collections::BTreeMap;

/// Listings that were not read to their end.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    rest: BTreeMap<String, Vec<String>>,
}

impl Cursors {
    /// The first page of a listing of ids, and the token of the next one.
    pub(super) fn begin(&mut self, mut ids: Vec<String>, size: usize) -> (Vec<String>, Option<String>) {
        let rest = ids.split_off(size.min(ids.len()));
        let token = (!rest.is_empty()).then(crate::servers::random_text);
        if let Some(token) = &token {
            self.rest.insert(token.clone(), rest);
        }
        (ids, token)
    }

    /// The page of a token, which stays good: a client may ask again.
    pub(super) fn go_on(&mut self, token: &str, size: usize) -> Option<(Vec<String>, Option<String>)> {
        let ids = self.rest.get(token)?.clone();
        Some(self.begin(ids, size))
    }
}
