//! Files outside all locations whose contents are being put: for that long they are sources like any other.

use crate::library::PARTIAL_SUFFIX;
use larder_protocol::id::ContentId;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// A file with a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) path: PathBuf,
    /// Larder made it for this put, and may move it away.
    pub(crate) ours: bool,
}

impl Offer {
    /// Makes an own file the one to fill, where both are in one file system; whether that was done. Blocks.
    pub(crate) fn hand_over(&self, to: &Path) -> io::Result<bool> {
        if !self.ours {
            return Ok(false);
        }
        debug_assert!(self.path.to_string_lossy().ends_with(PARTIAL_SUFFIX), "only partial files are ours");
        fs::File::open(&self.path)?.sync_all()?;
        match fs::rename(&self.path, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// All offers of a node.
#[derive(Debug, Default)]
pub(crate) struct Offers(Mutex<BTreeMap<ContentId, Vec<Offer>>>);

impl Offers {
    /// Offers a file until the guard is dropped.
    #[must_use]
    pub(crate) fn add(&self, content: ContentId, offer: Offer) -> Guard<'_> {
        let mut offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offers.entry(content).or_default().push(offer.clone());
        Guard { offers: self, content, offer }
    }

    /// The files with a content.
    pub(crate) fn of(&self, content: &ContentId) -> Vec<Offer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(content).cloned().unwrap_or_default()
    }
}

/// Takes an offer back when it is dropped.
pub(crate) struct Guard<'a> {
    offers: &'a Offers,
    content: ContentId,
    offer: Offer,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut offers = self.offers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_content) = offers.get_mut(&self.content) else { return };
        if let Some(at) = of_content.iter().position(|offer| *offer == self.offer) {
            of_content.remove(at);
        }
        if of_content.is_empty() {
            offers.remove(&self.content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_ends_with_its_guard() {
        let (offers, content) = (Offers::default(), ContentId::new([1; 32]));
        let offer = |name: &str| Offer { path: name.into(), ours: false };
        let first = offers.add(content, offer("a"));
        let second = offers.add(content, offer("b"));
        drop(first);
        assert_eq!(offers.of(&content), [offer("b")]);
        drop(second);
        assert_eq!(offers.of(&content), []);
        assert!(offers.0.lock().unwrap().is_empty());
    }

    #[test]
    fn only_own_files_are_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("x.partial"), dir.path().join("to"));
        fs::write(&from, "abc").unwrap();
        assert!(!Offer { path: from.clone(), ours: false }.hand_over(&to).unwrap());
        assert!(Offer { path: from.clone(), ours: true }.hand_over(&to).unwrap());
        assert!(!from.exists() && fs::read(&to).unwrap() == b"abc");
    }
}
