//! What a sealed location holds beside its chunks: its snapshot and the key bundle.

use super::{
    OpenError, PutMode, Sealing, StorageError, StorageErrorKind, StorageProvider,
    layout::{key_bundle, snapshot_page},
};
use larder_protocol::{
    codec,
    id::LocationId,
    seal::{KeyBundle, SnapshotEntry, SnapshotPage, page_of},
};
use std::collections::BTreeMap;

/// Notes entries in a location's snapshot: only the pages that they belong to are rewritten.
///
/// # Errors
/// [`OpenError`] when the storage fails or a page does not open.
pub async fn write_snapshot(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
    entries: Vec<SnapshotEntry>,
) -> Result<(), OpenError> {
    let mut pages: BTreeMap<u16, Vec<SnapshotEntry>> = BTreeMap::new();
    for entry in entries {
        pages.entry(page_of(&location, &entry.path)).or_default().push(entry);
    }
    for (number, entries) in pages {
        let key = snapshot_page(number);
        let page = match provider.get_range(&key, None).await {
            Ok(object) => SnapshotPage::open(&object, |epoch| sealing.ring.get(epoch).cloned())?.0,
            Err(error) if error.kind == StorageErrorKind::NotFound => SnapshotPage::empty(location, number),
            Err(error) => return Err(error.into()),
        };
        let (epoch, secret) = sealing.ring.current();
        let object = page.with(entries).close(&sealing.signing, epoch, secret, crate::keys::random())?;
        provider.put(&key, object.into(), PutMode::Replace).await?;
    }
    Ok(())
}

/// Writes the key bundle, with which the recovery words open everything in the location; not when it stands there already.
///
/// # Errors
/// [`StorageError`] when the storage fails.
pub async fn write_key_bundle(provider: &dyn StorageProvider, bundle: &KeyBundle) -> Result<(), StorageError> {
    let bytes = codec::encode(bundle)
        .map_err(|error| StorageError::new(provider.name(), StorageErrorKind::Invalid, error.to_string()))?;
    let key = key_bundle();
    if provider.get_range(&key, None).await.is_ok_and(|stored| stored == bytes) {
        return Ok(());
    }
    provider.put(&key, bytes.into(), PutMode::Replace).await?;
    Ok(())
}
