//! Synced folders: concurrent writes on several devices, and what every one of them shows afterwards.

use super::*;
use larder_protocol::{
    id::FolderId,
    log::{Author, SealedBatch},
    namespace::{Head, Names, listing},
    path::NfcPath,
    record::{Context, FolderEntry, FolderFile, FolderValue},
};

const FOLDER: FolderId = FolderId::new([7; 16]);

fn key(text: &str) -> NfcPath {
    NfcPath::of(&path(text)).unwrap()
}

/// A statement in sight of what a catalog knows; no content is a delete.
pub(super) fn written(catalog: &Catalog, at: &str, of: Option<u8>) -> Record {
    let context = catalog.read().unwrap().synced_path(&FOLDER, &key(at)).unwrap().context();
    said(at, of, context)
}

fn said(at: &str, of: Option<u8>, context: Context) -> Record {
    let file = |of| FolderValue::File(FolderFile { content: content(of), size: 1, modified: NOW });
    let value = of.map_or(FolderValue::Deleted, file);
    Record::from(FolderEntry { folder: FOLDER, path: key(at), value, context, moved_from: None })
}

pub(super) fn heads(catalog: &Catalog, at: &str) -> Vec<Head> {
    catalog.read().unwrap().synced_path(&FOLDER, &key(at)).unwrap().heads().to_vec()
}

fn write(catalog: &Catalog, at: &str, of: Option<u8>, ms: i64) -> Vec<SealedBatch> {
    catalog.append(vec![written(catalog, at, of)], Vec::new(), NOW.plus_millis(ms)).unwrap().batches
}

fn shown(catalog: &Catalog) -> Vec<(String, bool)> {
    let registers = catalog.read().unwrap().synced_folder(&FOLDER).unwrap();
    let shown = listing(&registers, Names::Exact);
    shown.into_iter().map(|shown| (shown.path.unwrap().as_str().to_owned(), shown.is_copy)).collect()
}

#[test]
fn an_edit_survives_a_delete_that_did_not_know_of_it() {
    let (a, b) = (memory(1), memory(2));
    b.apply(write(&a, "x", Some(1), 0), NOW).unwrap();
    let edit = write(&a, "x", Some(2), 1);
    let delete = write(&b, "x", None, 900);
    a.apply(delete, NOW).unwrap();
    b.apply(edit, NOW).unwrap();
    for catalog in [&a, &b] {
        assert_eq!(shown(catalog), [("x".to_owned(), false)]);
        assert_eq!(heads(catalog, "x").len(), 2);
    }
    // A delete in sight of both takes both.
    a.apply(write(&b, "x", None, 901), NOW).unwrap();
    assert_eq!((heads(&a, "x").len(), shown(&a).len()), (1, 0));
    assert_eq!(a.read().unwrap().digest().unwrap(), b.read().unwrap().digest().unwrap());
}

#[test]
fn the_loser_shows_under_the_same_name_everywhere() {
    let (a, b, c) = (memory(1), memory(2), memory(3));
    let (one, two) = (write(&a, "d/x.txt", Some(1), 0), write(&b, "d/x.txt", Some(2), 2_000));
    c.apply([two.clone(), one.clone()].concat(), NOW).unwrap();
    a.apply(two, NOW).unwrap();
    b.apply(one, NOW).unwrap();
    let name = format!("d/x.sync-conflict-20270115-080000-{}.txt", &device(1).to_string()[..7]);
    for catalog in [&a, &b, &c] {
        assert_eq!(shown(catalog), [("d/x.txt".to_owned(), false), (name.clone(), true)]);
        assert_eq!(catalog.read().unwrap().digest().unwrap(), a.read().unwrap().digest().unwrap());
    }
    // Whoever writes in sight of both settles it.
    a.apply(write(&c, "d/x.txt", Some(3), 3_000), NOW).unwrap();
    assert_eq!(shown(&a), [("d/x.txt".to_owned(), false)]);
}

#[test]
fn folders_do_not_mix() {
    let a = memory(1);
    write(&a, "x", Some(1), 0);
    let read = a.read().unwrap();
    for other in [[6; 16], [8; 16]] {
        assert!(read.synced_folder(&FolderId::new(other)).unwrap().is_empty());
        assert!(read.synced_path(&FolderId::new(other), &key("x")).unwrap().heads().is_empty());
    }
    assert_eq!(read.synced_folder(&FOLDER).unwrap().len(), 1);
}

#[test]
fn what_claims_to_have_seen_itself_does_not_count() {
    let (a, b) = (memory(1), memory(2));
    let author = Author { device: device(1), incarnation: 0 };
    let batches =
        a.append(vec![said("x", Some(1), Context::new(vec![(author, 1)]).unwrap())], Vec::new(), NOW).unwrap().batches;
    b.apply(batches, NOW).unwrap();
    for catalog in [&a, &b] {
        assert_eq!((heads(catalog, "x").len(), catalog.read().unwrap().counts().unwrap().malformed), (0, 1));
    }
}

#[test]
fn readers_write_nothing_and_merging_anew_gives_the_same() {
    let (a, b) = (memory(1), memory(2));
    let empty = b.read().unwrap().digest().unwrap();
    let batches = [write(&a, "x", Some(1), 0), write(&a, "x", Some(2), 1), write(&a, "y", None, 2)].concat();
    b.set_permits(Arc::new(behaviour::Readers(vec![device(1)])), NOW).unwrap();
    b.apply(batches, NOW).unwrap();
    let read = b.read().unwrap();
    assert_eq!((read.digest().unwrap(), read.counts().unwrap().refused, heads(&b, "x").len()), (empty, 3, 0));
    assert!(b.set_permits(Arc::new(PermitAll), NOW).unwrap());
    assert_eq!(b.read().unwrap().digest().unwrap(), a.read().unwrap().digest().unwrap());
    assert_eq!(heads(&b, "x"), heads(&a, "x"));
    assert!(b.set_permits(Arc::new(behaviour::Readers(vec![device(1)])), NOW).unwrap());
    assert_eq!((b.read().unwrap().digest().unwrap(), heads(&b, "x").len()), (empty, 0));
}

#[test]
fn a_catalog_from_before_synced_folders_learns_them() {
    let dir = tempfile::tempdir().unwrap();
    let kept = {
        let (catalog, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
        catalog.append(vec![location(1, 0)], Vec::new(), NOW.plus_millis(60_000)).unwrap();
        catalog.read().unwrap().digest().unwrap()
    };
    {
        let db = redb::Database::open(dir.path().join("catalog.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        txn.delete_table(tables::FOLDER_ENTRIES).unwrap();
        let row = rows::close(tables::META, &"schema", &[1]);
        txn.open_table(tables::META).unwrap().insert("schema", row.as_slice()).unwrap();
        txn.commit().unwrap();
    }
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(
        (report.migrated, catalog.read().unwrap().digest().unwrap()),
        (vec![(2, 0), (3, 0), (4, 0), (5, 0), (6, 0)], kept)
    );
    assert!(shown(&catalog).is_empty());
    write(&catalog, "x", Some(1), 0);
    assert_eq!(shown(&catalog), [("x".to_owned(), false)]);
    // What it knew of itself is known still: its clock does not go back.
    assert!(heads(&catalog, "x")[0].stamp.hlc.millis() >= NOW.plus_millis(60_000).as_millis() as u64);
}
