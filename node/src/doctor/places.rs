//! The locations of this device: there, theirs, writable, with room.

use super::files;
use crate::{
    catalog::Snapshot,
    engine::{Place, Places},
    library::{OWN_FOLDER, Signature, SignatureError},
};
use larder_protocol::control::{FindingKind, FindingView};

/// Looks at every location of this device. Blocks.
pub(super) fn examine(places: &Places, snapshot: &Snapshot, findings: &mut Vec<FindingView>) {
    for place in places.all() {
        let name = match snapshot.location(&place.id) {
            Ok(Some(row)) if row.location.removed => continue,
            Ok(Some(row)) => row.location.name.to_string(),
            _ => place.id.to_string(),
        };
        one(places, &place, &name, findings);
    }
}

fn one(places: &Places, place: &Place, name: &str, findings: &mut Vec<FindingView>) {
    let root = place.root.display().to_string();
    let mut find = |kind, detail: String| findings.push(FindingView::new(kind, name).detail(detail));
    if !place.root.is_dir() {
        return find(FindingKind::LocationOffline, root);
    }
    if !place.is_proven(places) {
        return match Signature::read(&place.root) {
            Err(SignatureError::Missing(_)) => find(FindingKind::LocationOffline, root),
            Err(error) => find(FindingKind::LocationSignature, error.to_string()),
            Ok(signature) if signature.id() == Some(place.id) => find(
                FindingKind::LocationCloned,
                format!("{root} was mounted {} times, here {}", signature.mount_epoch, place.mount_epoch),
            ),
            Ok(_) if place.read_only => find(FindingKind::LocationOffline, root),
            Ok(signature) => {
                find(FindingKind::LocationSignature, format!("{root} is location {}", signature.storage_uuid))
            }
        };
    }
    if !place.read_only {
        // What root may do says nothing about the disk.
        let is_read_only = rustix::fs::statvfs(&place.root)
            .is_ok_and(|disk| disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        if is_read_only || rustix::fs::access(&place.root, rustix::fs::Access::WRITE_OK).is_err() {
            find(FindingKind::LocationNotWritable, root);
        }
        files::room(&place.root, findings);
        files::stale(&place.root.join(OWN_FOLDER).join("tmp"), findings);
    }
}
