//! Deleted, damaged and torn files: found, told, and healed from the log segments.

use super::*;
use larder_protocol::log::{Author, Gap};
use std::{fs, io::Write, path::PathBuf};

fn author(number: u8) -> Author {
    Author { device: device(number), incarnation: 0 }
}

/// A catalog with own and foreign batches, part of them only held.
fn filled(dir: &std::path::Path) -> (Digest, Vec<Copies>) {
    let (catalog, _) = Catalog::open(dir, identity(1), options()).unwrap();
    let peer = memory(2);
    catalog.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    for i in 0..50 {
        catalog.append(vec![entry(1, 0, &format!("dir {}/{i}", i % 3), file(i))], Vec::new(), NOW).unwrap();
    }
    catalog
        .apply(peer.append(vec![location(2, 0), entry(2, 0, "x", file(1))], Vec::new(), NOW).unwrap().batches, NOW)
        .unwrap();
    for batch in peer.append(vec![entry(2, 0, "y", file(2))], Vec::new(), NOW).unwrap().batches {
        catalog.hold(vec![batch], NOW).unwrap();
    }
    let value = |key: &[u8], value: Option<&[u8]>| LocalWrite::Value {
        namespace: "places",
        key: key.to_vec(),
        value: value.map(<[u8]>::to_vec),
    };
    let values = vec![value(b"1", Some(b"here")), value(b"2", Some(b"there"))];
    catalog.append(Vec::new(), values, NOW).unwrap();
    catalog.append(Vec::new(), vec![value(b"1", None)], NOW).unwrap();
    state(&catalog)
}

fn state(catalog: &Catalog) -> (Digest, Vec<Copies>) {
    let read = catalog.read().unwrap();
    (read.digest().unwrap(), (0..50).map(|number| read.copies(&content(number)).unwrap().unwrap()).collect())
}

#[test]
fn the_database_can_be_deleted_and_comes_back_from_the_segments() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!((report.replayed_batches, report.cut_bytes, report.moved_aside), (53, 0, None));
    assert_eq!(state(&catalog), before);
    let places = catalog.read().unwrap().locals("places").unwrap();
    assert_eq!(places, [(b"2".to_vec(), b"there".to_vec())], "what only this device has is there too");
    let summary = catalog.read().unwrap().summary().unwrap();
    assert_eq!((summary.vector.get(&author(1)), summary.vector.get(&author(2))), (51, 2));
    assert_eq!(summary.held[&author(2)], 2..3, "what only gossip brought is still only held");
    assert_eq!(catalog.append(vec![entry(1, 0, "new", file(9))], Vec::new(), NOW).unwrap().first_seq, 51);
    drop(catalog);
    let (catalog, report) = Catalog::rebuild(dir.path(), identity(1), options()).unwrap();
    assert_eq!(report.replayed_batches, 54);
    assert!(report.moved_aside.unwrap().exists());
    assert_eq!(catalog.read().unwrap().counts().unwrap().files, 53);
}

#[test]
fn compaction_keeps_everything_and_wants_the_catalog_closed() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let (catalog, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert!(Catalog::compact(dir.path(), &options()).is_err());
    drop(catalog);
    Catalog::compact(dir.path(), &options()).unwrap();
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!((report, state(&catalog)), (OpenReport::default(), before));
}

#[test]
fn a_damaged_database_is_moved_aside_and_rebuilt() {
    for pattern in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let before = filled(dir.path());
        let path = dir.path().join("catalog.redb");
        let mut bytes = fs::read(&path).unwrap();
        match pattern {
            0 => bytes.truncate(100),
            1 => bytes[0] ^= 1,
            // Everything after the header is noise, or zeroes.
            2 => bytes[4096..].fill(0x5a),
            3 => bytes[320..].fill(0),
            4 => bytes.truncate(bytes.len() / 2),
            _ => bytes = b"not a database".to_vec(),
        }
        fs::write(&path, bytes).unwrap();
        let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
        assert!(report.moved_aside.unwrap().exists(), "pattern {pattern}");
        assert_eq!(state(&catalog), before, "pattern {pattern}");
    }
}

#[test]
fn a_flipped_bit_in_a_stored_value_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let path = dir.path().join("catalog.redb");
    let bytes = fs::read(&path).unwrap();
    let name = b"dir 1";
    let hits: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| &bytes[*at..*at + name.len()] == name).collect();
    assert!(!hits.is_empty());
    let mut damaged = bytes.clone();
    for at in hits {
        damaged[at + 4] ^= 4;
    }
    fs::write(&path, &damaged).unwrap();
    let (catalog, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    let read = catalog.read().unwrap();
    let results: Vec<_> = (0..50).map(|number| read.copies(&content(number))).collect();
    for (result, good) in results.into_iter().zip(&before.1) {
        match result {
            Ok(found) => assert_eq!(found.as_ref(), Some(good), "never a wrong answer"),
            Err(error) => assert!(error.is_damage()),
        }
    }
    assert!((0..50).any(|number| read.copies(&content(number)).is_err()));
    drop((read, catalog));
    let (catalog, _) = Catalog::rebuild(dir.path(), identity(1), options()).unwrap();
    assert_eq!(state(&catalog), before);
}

fn segment(dir: &std::path::Path, number: u8) -> PathBuf {
    let folder = dir.join("log").join(format!("{}.0", device(number)));
    fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_torn_end_is_cut_and_damage_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let path = segment(dir.path(), 1);
    let whole = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"LDR1 half a frame").unwrap();
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!((report.cut_bytes, report.damaged_logs.len()), (17, 0));
    assert_eq!((fs::metadata(&path).unwrap().len(), state(&catalog)), (whole, before));
    drop(catalog);

    // A flipped bit in the middle: found when the batch is loaded, and when the database is rebuilt.
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (catalog, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(report, OpenReport::default());
    let gap = Gap { author: author(1), from: 0, until: 51 };
    assert!(catalog.read().unwrap().load(&gap, usize::MAX).unwrap_err().is_damage());
    drop(catalog);
    let (catalog, report) = Catalog::rebuild(dir.path(), identity(1), options()).unwrap();
    assert_eq!((report.damaged_logs, report.cut_bytes > 0), (vec![author(1)], true));
    let kept = catalog.read().unwrap().vector().unwrap().get(&author(1));
    assert!(kept > 5 && kept < 50, "{kept}");
    assert!(fs::read_dir(path.parent().unwrap()).unwrap().count() == 2, "what was cut is kept beside");
}

#[test]
fn a_log_that_lost_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let path = segment(dir.path(), 2);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    let (_, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(report.short_logs, [author(2)]);
}

#[test]
fn long_logs_roll_over_into_further_files() {
    let dir = tempfile::tempdir().unwrap();
    let (catalog, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    catalog.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    // Names that do not compress.
    let part = |i: u32, part: u32| blake3::hash(&[i, part].map(u32::to_le_bytes).concat()).to_hex().to_string();
    let long = |i: u32| (0..8).map(|at| part(i, at)).collect::<String>();
    let name = |round: u32, i: u32| format!("{round}/{}", long(i * 2 + round));
    let records = |round: u32| (0..10_000).map(|i| entry(1, 0, &name(round, i), file(1))).collect();
    catalog.append(records(0), Vec::new(), NOW).unwrap();
    catalog.append(records(1), Vec::new(), NOW).unwrap();
    let digest = catalog.read().unwrap().digest().unwrap();
    drop(catalog);
    let folder = segment(dir.path(), 1).parent().unwrap().to_owned();
    assert!(fs::read_dir(folder).unwrap().count() >= 2);
    fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    let (catalog, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(catalog.read().unwrap().digest().unwrap(), digest);
    let gap = Gap { author: author(1), from: 0, until: 20_001 };
    assert!(catalog.read().unwrap().load(&gap, usize::MAX).unwrap().0.len() > 12);
}

#[test]
fn a_restored_backup_goes_on_under_a_new_incarnation() {
    // Device 1 shares three batches, is restored from a backup of the first one, and says other things.
    let (device, peer) = (memory(1), memory(2));
    let first = device.append(vec![location(1, 0)], Vec::new(), NOW).unwrap().batches;
    peer.apply(first.clone(), NOW).unwrap();
    peer.apply(device.append(vec![entry(1, 0, "lost", file(1))], Vec::new(), NOW).unwrap().batches, NOW).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    old.append(vec![location(1, 0)], Vec::new(), NOW).unwrap();
    drop(old);
    let (restored, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    restored.note_shared(author(1), 99).unwrap();
    let unshared = restored.append(vec![entry(1, 0, "new", file(2))], Vec::new(), NOW.plus_millis(9)).unwrap();
    assert_eq!((unshared.author.incarnation, unshared.first_seq), (0, 1));
    assert_eq!(restored.read().unwrap().own().unwrap(), (author(1), 1), "a peer cannot have more than there is");
    let told = restored.read().unwrap().summary_shared().unwrap();
    assert_eq!((told.vector.get(&author(1)), told.tips.len()), (1, 1), "what nobody knows is told nobody");
    let said =
        |catalog: &Catalog| catalog.read().unwrap().entry(&location_id(1), &path("new")).unwrap().unwrap().stamp.hlc;
    let first_said = said(&restored);
    let theirs = peer.read().unwrap().load(&Gap { author: author(1), from: 1, until: 2 }, usize::MAX).unwrap().0;
    let applied = restored.apply(theirs.clone(), NOW.plus_millis(20)).unwrap();
    assert_eq!((applied.batches, applied.forks.len()), (1, 0), "nobody was told anything that is taken back");
    let moved = applied.begun.unwrap();
    assert_eq!((moved.author.incarnation, moved.first_seq, moved.next_seq), (1, 0, 2));
    assert_eq!(restored.apply(theirs, NOW).unwrap().begun, None, "once is enough");
    assert_eq!(said(&restored), first_said, "said again, it must not win against what was said since");
    peer.apply(moved.batches, NOW).unwrap();
    let check = |restored: &Catalog| {
        let (a, b) = (restored.read().unwrap(), peer.read().unwrap());
        assert_eq!(a.vector().unwrap(), b.vector().unwrap());
        assert_eq!(a.digest().unwrap(), b.digest().unwrap());
        for at in ["lost", "new"] {
            assert!(a.entry(&location_id(1), &path(at)).unwrap().is_some(), "{at}");
        }
    };
    check(&restored);
    drop(restored);
    let (restored, report) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    assert_eq!(report, OpenReport::default());
    check(&restored);
    drop(restored);
    fs::remove_file(dir.path().join("catalog.redb")).unwrap();
    let (restored, _) = Catalog::open(dir.path(), identity(1), options()).unwrap();
    check(&restored);
    assert_eq!(restored.append(vec![entry(1, 0, "more", file(3))], Vec::new(), NOW).unwrap().author.incarnation, 1);
}

/// What others are known to have is noted late, so a backup may know of less. The first batches that a peer gave back were
/// the same, the next one was not, and the cut went below both: the rest did not fit, and no session ended.
#[test]
fn what_comes_back_unchanged_is_shared() {
    let (device, peer, restored) = (memory(1), memory(2), memory(1));
    let said = |catalog: &Catalog, at: &str| {
        catalog.append(vec![location(1, 0), entry(1, 0, at, file(1))], Vec::new(), NOW).unwrap().batches
    };
    for at in ["one", "two", "lost"] {
        peer.apply(said(&device, at), NOW).unwrap();
    }
    for at in ["one", "two", "new"] {
        said(&restored, at);
    }
    assert_eq!(restored.read().unwrap().own().unwrap().1, 0, "nothing was noted");
    let theirs = peer.read().unwrap().load(&Gap { author: author(1), from: 0, until: 6 }, usize::MAX).unwrap().0;
    let applied = restored.hold(theirs, NOW).unwrap();
    assert_eq!((applied.duplicates, applied.batches, applied.unplaced), (2, 1, 0));
    let begun = applied.begun.unwrap();
    assert_eq!((begun.author.incarnation, begun.next_seq), (1, 3), "an announcement, and what nobody was told");
    peer.apply(begun.batches, NOW).unwrap();
    assert_eq!(peer.read().unwrap().digest().unwrap(), restored.read().unwrap().digest().unwrap());
    assert_eq!(peer.read().unwrap().vector().unwrap(), restored.read().unwrap().vector().unwrap());
}
