//! What a sealed location holds beside its chunks: the pages of its snapshot and their index, and what the recovery words
//! need: the key bundle and a copy of the membership log.
//!
//! Each device writes on a [`Desk`] of its own and nowhere else; what a location says is the union of all desks. An object is
//! changed by reading and writing it again, and not every storage can do that for two at once: so no object has two writers.
//! Within a device calls for one location must come one after the other.

use super::{
    ObjectKey, OpenError, PutMode, Sealing, StorageError, StorageErrorKind, StorageProvider,
    layout::{Desk, OnDesk, desks},
};
use bytes::Bytes;
use larder_protocol::{
    bounded::List,
    codec,
    id::{DeviceId, LocationId},
    membership::MembershipLog,
    seal::{KeyBundle, MembershipCopy, PageMark, SnapshotEntry, SnapshotIndex, SnapshotPage, chunk_id, page_of},
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

/// The desk of whoever seals.
fn own_desk(sealing: &Sealing, location: &LocationId) -> Desk {
    Desk::of(location, &DeviceId::new(sealing.signing.verifying_key().to_bytes()))
}

/// Notes entries in this device's part of a location's snapshot: only the pages that they belong to, and then the index, are
/// rewritten.
///
/// # Errors
/// [`OpenError`] when the storage fails or a page does not open.
pub async fn write_snapshot(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
    entries: Vec<SnapshotEntry>,
) -> Result<(), OpenError> {
    let desk = own_desk(sealing, &location);
    let mut pages: BTreeMap<u16, Vec<SnapshotEntry>> = BTreeMap::new();
    for entry in entries {
        pages.entry(page_of(&location, &entry.path)).or_default().push(entry);
    }
    let mut index = read_index(provider, sealing, location, &desk).await?;
    for (number, entries) in pages {
        let key = desk.page(number);
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
    write_index(provider, sealing, &desk, &index).await
}

async fn write_index(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    desk: &Desk,
    index: &SnapshotIndex,
) -> Result<(), OpenError> {
    let (epoch, secret) = sealing.ring.current();
    let object = index.close(&sealing.signing, epoch, secret, crate::keys::random())?;
    provider.put(&desk.index(), object.into(), PutMode::Replace).await?;
    Ok(())
}

/// The index of a desk; made anew from the pages that open when there is none or it does not open.
async fn read_index(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
    desk: &Desk,
) -> Result<SnapshotIndex, OpenError> {
    let secret = |epoch: &_| sealing.ring.get(epoch).cloned();
    if let Some(object) = find(provider, &desk.index()).await?
        && let Ok((index, _)) = SnapshotIndex::open(&object, secret)
        && index.location == location
    {
        return Ok(index);
    }
    let mut index = SnapshotIndex::empty(location);
    for number in desks(provider).await?.remove(desk).unwrap_or_default().pages {
        if let Some(object) = find(provider, &desk.page(number)).await?
            && let Ok((page, _)) = SnapshotPage::open(&object, secret)
        {
            let mark = PageMark { page: number, generation: page.generation, object: chunk_id(&object) };
            index = index.with(mark);
        }
    }
    Ok(index)
}

/// Keys of the pages of all desks of a location.
pub(super) async fn all_pages(provider: &dyn StorageProvider) -> Result<Vec<ObjectKey>, StorageError> {
    let desks = desks(provider).await?;
    let pages = |(desk, on_it): (Desk, OnDesk)| on_it.pages.into_iter().map(move |page| desk.page(page));
    Ok(desks.into_iter().flat_map(pages).collect())
}

/// Puts a key bundle on a device's desk; not when it lies there already. With it the recovery words open everything in the
/// location that is sealed under an epoch which this device knows.
///
/// # Errors
/// [`StorageError`] when the storage fails.
pub async fn write_key_bundle(
    provider: &dyn StorageProvider,
    location: &LocationId,
    device: &DeviceId,
    bundle: &KeyBundle,
) -> Result<(), StorageError> {
    let key = Desk::of(location, device).key_bundle();
    let stored = find(provider, &key).await.ok().flatten();
    // A device that was put back to an older state knows fewer epochs than it did.
    let known: Option<KeyBundle> = stored.as_ref().and_then(|stored| codec::decode(stored).ok());
    let known = known.filter(|known| known.is_known() && known.group == bundle.group);
    let kept = known.into_iter().flat_map(|known| known.epochs.into_vec());
    let kept = kept.filter(|(epoch, _)| bundle.epochs.iter().all(|(other, _)| other != epoch));
    let bundle = KeyBundle::new(bundle.group, kept.chain(bundle.epochs.iter().cloned()));
    let bytes = codec::encode(&bundle)
        .map_err(|error| StorageError::new(provider.name(), StorageErrorKind::Invalid, error.to_string()))?;
    if stored.is_some_and(|stored| stored == bytes) {
        return Ok(());
    }
    provider.put(&key, bytes.into(), PutMode::Replace).await?;
    Ok(())
}

/// Puts a copy of the membership log on this device's desk, and an index where there is none: by them a recovery knows whose
/// pages count and how many there were. What the copy has and this log has not stays in it; one that says all already is not
/// written again.
///
/// # Errors
/// [`OpenError`] when the storage fails or the log is larger than a copy may be.
pub async fn write_membership(
    provider: &dyn StorageProvider,
    sealing: &Sealing,
    location: LocationId,
    log: &MembershipLog,
) -> Result<(), OpenError> {
    let desk = own_desk(sealing, &location);
    // Before the copy, so that a copy without an index tells that one was lost.
    if provider.stat(&desk.index()).await?.is_none() {
        let index = read_index(provider, sealing, location, &desk).await?;
        write_index(provider, sealing, &desk, &index).await?;
    }
    let mut log = log.clone();
    let mut kept = Vec::new();
    if let Some(object) = find(provider, &desk.membership_copy()).await?
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
    if ops.iter().any(|op| kept.binary_search(&op.id()).is_err()) {
        let (epoch, secret) = sealing.ring.current();
        let copy = MembershipCopy { group: log.group(), ops: List::truncated(ops) };
        let object = copy.close(&sealing.signing, epoch, secret, crate::keys::random())?;
        provider.put(&desk.membership_copy(), object.into(), PutMode::Replace).await?;
    }
    Ok(())
}
