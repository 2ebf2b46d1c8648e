//! What a sealed location holds beside its chunks: the pages of its snapshot and their index, and what the recovery words
//! need: the key bundle and a copy of the membership log.

use super::{
    ObjectKey, OpenError, PutMode, Sealing, StorageError, StorageErrorKind, StorageProvider,
    layout::{SNAPSHOT_PREFIX, key_bundle, membership_copy, snapshot_index, snapshot_page},
    list_all,
};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    codec,
    id::LocationId,
    membership::MembershipLog,
    seal::{
        KeyBundle, MembershipCopy, PageMark, SNAPSHOT_PAGES, SnapshotEntry, SnapshotIndex, SnapshotPage, chunk_id,
        page_of,
    },
};
use std::collections::BTreeMap;

/// An object, or `None` when it is not there.
pub(super) async fn find(provider: &dyn StorageProvider, key: &ObjectKey) -> Result<Option<Bytes>, StorageError> {
    match provider.get_range(key, None).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Notes entries in a location's snapshot: only the pages that they belong to, and then the index, are rewritten.
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
    let mut index = read_index(provider, sealing, location).await?;
    for (number, entries) in pages {
        let key = snapshot_page(number);
        let page = match find(provider, &key).await? {
            Some(object) => SnapshotPage::open(&object, |epoch| sealing.ring.get(epoch).cloned())?.0,
            None => SnapshotPage::empty(location, number),
        };
        // Above what the index has of it, too, should an older page stand there.
        let noted = index.mark(number).map_or(0, |mark| mark.generation);
        let page = SnapshotPage { generation: page.generation.max(noted), ..page }.with(entries);
        let (epoch, secret) = sealing.ring.current();
        let object = page.close(&sealing.signing, epoch, secret, crate::keys::random())?;
        index = index.with(PageMark { page: number, generation: page.generation, object: chunk_id(&object) });
        provider.put(&key, object.into(), PutMode::Replace).await?;
    }
    write_index(provider, sealing, &index).await
}

async fn write_index(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    index: &SnapshotIndex,
) -> Result<(), OpenError> {
    let (epoch, secret) = sealing.ring.current();
    let object = index.close(&sealing.signing, epoch, secret, crate::keys::random())?;
    provider.put(&snapshot_index(), object.into(), PutMode::Replace).await?;
    Ok(())
}

/// The index of a location; made anew from the pages that open when there is none or it does not open.
async fn read_index(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
) -> Result<SnapshotIndex, OpenError> {
    let secret = |epoch: &_| sealing.ring.get(epoch).cloned();
    if let Some(object) = find(provider, &snapshot_index()).await?
        && let Ok((index, _)) = SnapshotIndex::open(&object, secret)
        && index.location == location
    {
        return Ok(index);
    }
    let mut index = SnapshotIndex::empty(location);
    for (number, key) in pages_there(provider).await? {
        if let Some(object) = find(provider, &key).await?
            && let Ok((page, _)) = SnapshotPage::open(&object, secret)
        {
            let mark = PageMark { page: number, generation: page.generation, object: chunk_id(&object) };
            index = index.with(mark);
        }
    }
    Ok(index)
}

/// Numbers and keys of the pages that a location has, in order.
pub(super) async fn pages_there(provider: &dyn StorageProvider) -> Result<BTreeMap<u16, ObjectKey>, StorageError> {
    let listed = list_all(provider, SNAPSHOT_PREFIX).await?;
    let keys = (0..SNAPSHOT_PAGES).map(|number| (number, snapshot_page(number)));
    Ok(keys.filter(|(_, key)| listed.iter().any(|there| there.key == *key)).collect())
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

/// Writes a copy of the membership log, and an index where there is none: by them a recovery knows whose pages count and
/// how many there were. What the copy has and this log has not stays in it; one that says all already is not written again.
///
/// # Errors
/// [`OpenError`] when the storage fails or the log is larger than a copy may be.
pub async fn write_membership(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
    log: &MembershipLog,
) -> Result<(), OpenError> {
    let mut log = log.clone();
    let mut kept = Vec::new();
    if let Some(object) = find(provider, &membership_copy()).await?
        && let Ok((copy, _)) = MembershipCopy::open(&object, |epoch| sealing.ring.get(epoch).cloned())
        && copy.group == log.group()
    {
        kept.extend(copy.ops.iter().map(|op| op.id()));
        for op in copy.ops.into_vec() {
            if let Err(error) = log.insert(op) {
                tracing::warn!(%error, "an unsound operation in a location's membership copy");
            }
        }
        kept.sort_unstable();
    }
    let ops = log.counted();
    let (epoch, secret) = sealing.ring.current();
    if ops.iter().any(|op| kept.binary_search(&op.id()).is_err()) {
        let copy = MembershipCopy { group: log.group(), ops: List::truncated(ops) };
        let object = copy.close(&sealing.signing, epoch, secret, crate::keys::random())?;
        provider.put(&membership_copy(), object.into(), PutMode::Replace).await?;
    }
    if provider.stat(&snapshot_index()).await?.is_none() {
        let index = read_index(provider, sealing, location).await?;
        write_index(provider, sealing, &index).await?;
    }
    Ok(())
}
